"""A GRU whose recurrent matrices are diagonal."""

import torch
from torch import Tensor, nn

from recurra.nn.linear import Linear
from recurra.problem import Lane, StepInput, constant
from recurra.recurrence import Paper, Recurrence


class DiagonalGRU(Recurrence):
    """z, r = sigmoid(a_z h_{t-1} + B_z x_t + b_z), sigmoid(a_r h_{t-1} + B_r x_t + b_r)
    n = tanh(a_n (r h_{t-1}) + B_n x_t + b_n),  h_t = (1 - z) h_{t-1} + z n,  y_t = h_t.

    Lane: a channel, h is a scalar; a: [3] per channel takes the place of the recurrent matrices, so that channels do
    not mix in time. Initialisation: a normal with deviation 1/2, B as in `torch.nn.Linear`.

    Source: ParaRNN: Unlocking Parallel Training of Nonlinear RNNs for Large Language Models, Danieli, Rodriguez,
    Sarabia, Suau, Zappella, 2025, arXiv:2510.21450 (ParaGRU).
    """

    lane = Lane.CHANNEL
    paper = Paper("ParaRNN: Unlocking Parallel Training of Nonlinear RNNs", "Danieli et al.", 2025, "2510.21450")

    def __init__(self, width: int):
        super().__init__(width)
        self.to_gates = Linear(width, 3 * width)
        self.recurrent = nn.Parameter(torch.randn(width, 3) * 0.5)

    def start(self) -> dict[str, Tensor]:
        return {"h": torch.zeros(self.width)}

    def inputs(self, x: Tensor) -> dict[str, Tensor | StepInput]:
        z, r, n = self.to_gates(x).chunk(3, -1)
        return {"z": z, "r": r, "n": n, "a": constant(self.recurrent)}

    def step(self, h: Tensor, z: Tensor, r: Tensor, n: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
        z = torch.sigmoid(z + a[0] * h)
        r = torch.sigmoid(r + a[1] * h)
        n = torch.tanh(n + a[2] * (r * h))
        h = h + z * (n - h)
        return h, h
