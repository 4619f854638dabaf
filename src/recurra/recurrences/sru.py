"""The simple recurrent unit: gates that see of the state only their own channel, and a highway around it."""

import torch
from torch import Tensor, nn

from recurra.nn.linear import Linear
from recurra.problem import Lane, StepInput, constant
from recurra.recurrence import Paper, Recurrence


class SRU(Recurrence):
    """f, r = sigmoid(W_{f,r} x_t + b_{f,r} + v_{f,r} c_{t-1}),  c_t = f c_{t-1} + (1 - f) W x_t
    h_t = r c_t + (1 - r) x_t,  y_t = h_t.

    Lane: a channel, c is a scalar; v: [D, 2]. Initialisation: v uniform in [-1, 1], b zero.

    Source: Simple Recurrent Units for Highly Parallelizable Recurrence, Lei, Zhang, Wang, Dai, Artzi, 2017,
    arXiv:1709.02755, without its scale of x.
    """

    lane = Lane.CHANNEL
    paper = Paper("Simple Recurrent Units for Highly Parallelizable Recurrence", "Lei et al.", 2017, "1709.02755")

    def __init__(self, width: int):
        super().__init__(width)
        self.to_value = Linear(width, width, bias=False)
        self.to_gates = Linear(width, 2 * width)
        self.recurrent = nn.Parameter(torch.empty(width, 2).uniform_(-1, 1))
        nn.init.zeros_(self.to_gates.bias)

    def start(self) -> dict[str, Tensor]:
        return {"c": torch.zeros(self.width)}

    def inputs(self, x: Tensor) -> dict[str, Tensor | StepInput]:
        f, r = self.to_gates(x).chunk(2, -1)
        return {"x": x, "value": self.to_value(x), "f": f, "r": r, "v": constant(self.recurrent)}

    def step(self, c: Tensor, x: Tensor, value: Tensor, f: Tensor, r: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        f, r = torch.sigmoid(f + v[0] * c), torch.sigmoid(r + v[1] * c)
        c = value + f * (c - value)
        return c, x + r * (c - x)
