"""S7: a simplified state space whose decays, inputs and outputs are all made of x."""

import torch
from torch import Tensor, nn

from recurra import options
from recurra.nn.linear import Linear
from recurra.problem import Lane, StepInput, constant
from recurra.recurrence import Paper, Recurrence


class S7(Recurrence):
    """h_t = a_t h_{t-1} + B_t u_t + b_t,  a_t = 1 - 1 / (s_t^2 + 1/2),  y_t = C_t h_t + d_t u_t,  u_t = W x_t
    The result is sigmoid(V gelu(y_t)) y_t.

    Lane: the layer, h: [N], N = `state_size`. s_t - `base`, b_t: [N], B_t: [N, D],
    C_t: [D, N] and d_t: [D] are linear maps of u_t: `to_change`, `to_reading`. a lies in (-1, 1): nothing grows.
    Initialisation: `base` so that a is uniform in [0.5, 0.99] where u is 0.

    Source: S7: Selective and Simplified State Space Layers for Sequence Modeling, Soydan, Zubić, Messikommer, Mishra,
    Scaramuzza, 2024, arXiv:2410.03464. Departures: the initialisation; the residual connection is the block's.
    """

    lane = Lane.LAYER
    paper = Paper("S7: Selective and Simplified State Space Layers", "Soydan et al.", 2024, "2410.03464")

    def __init__(self, width: int, state_size: int = 16):
        super().__init__(width)
        N = self.state_size = options.count("state_size", state_size)
        self.to_inner = Linear(width, width, bias=False)
        self.to_change = Linear(width, (2 + width) * N, bias=False)
        self.to_reading = Linear(width, width * (N + 1), bias=False)
        self.to_gate = Linear(width, width, bias=False)
        self.base = nn.Parameter(torch.sqrt(1 / (1 - torch.empty(N).uniform_(0.5, 0.99)) - 0.5))

    def start(self) -> dict[str, Tensor]:
        return {"h": torch.zeros(self.state_size)}

    def inputs(self, x: Tensor) -> dict[str, Tensor | StepInput]:
        u = self.to_inner(x)
        return {"u": u, "change": self.to_change(u), "reading": self.to_reading(u), "base": constant(self.base)}

    def step(self, h: Tensor, u: Tensor, change: Tensor, reading: Tensor, base: Tensor) -> tuple[Tensor, Tensor]:
        N, D = self.state_size, self.width
        s, b, B = change.split([N, N, N * D])
        C, d = reading.split([D * N, D])
        s = s + base
        h = (1 - 1 / (s * s + 0.5)) * h + B.view(N, D) @ u + b
        return h, C.view(D, N) @ h + d * u

    def outputs(self, y: Tensor, x: Tensor) -> Tensor:  # noqa: ARG002
        return torch.sigmoid(self.to_gate(nn.functional.gelu(y))) * y
