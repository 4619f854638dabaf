"""An LSTM whose recurrent matrices are diagonal, with peepholes and coupled gates."""

import torch
from torch import Tensor, nn

from recurra.nn.linear import Linear
from recurra.problem import Lane, StepInput, constant
from recurra.recurrence import Paper, Recurrence


class DiagonalLSTM(Recurrence):
    """f = sigmoid(a_f h_{t-1} + p_f c_{t-1} + B_f x_t + b_f),  z = tanh(a_z h_{t-1} + B_z x_t + b_z)
    c_t = f c_{t-1} + (1 - f) z,  o = sigmoid(a_o h_{t-1} + p_o c_t + B_o x_t + b_o),  h_t = o tanh(c_t),  y_t = h_t.

    Lane: a channel, h and c are scalars; a: [3] and the peepholes p: [2] per channel take the place of the recurrent
    matrices. The input gate is tied to the forget gate, as in the paper. Initialisation: a and p normal with
    deviation 1/2, B as in `torch.nn.Linear`.

    Source: ParaRNN: Unlocking Parallel Training of Nonlinear RNNs for Large Language Models, Danieli, Rodriguez,
    Sarabia, Suau, Zappella, 2025, arXiv:2510.21450 (ParaLSTM).
    """

    lane = Lane.CHANNEL
    paper = Paper("ParaRNN: Unlocking Parallel Training of Nonlinear RNNs", "Danieli et al.", 2025, "2510.21450")

    def __init__(self, width: int):
        super().__init__(width)
        self.to_gates = Linear(width, 3 * width)
        self.recurrent = nn.Parameter(torch.randn(width, 3) * 0.5)
        self.peephole = nn.Parameter(torch.randn(width, 2) * 0.5)

    def start(self) -> dict[str, Tensor]:
        return {"h": torch.zeros(self.width), "c": torch.zeros(self.width)}

    def inputs(self, x: Tensor) -> dict[str, Tensor | StepInput]:
        f, z, o = self.to_gates(x).chunk(3, -1)
        return {"f": f, "z": z, "o": o, "a": constant(self.recurrent), "p": constant(self.peephole)}

    def step(self, h: Tensor, c: Tensor, f: Tensor, z: Tensor, o: Tensor, a: Tensor, p: Tensor):
        f = torch.sigmoid(f + a[0] * h + p[0] * c)
        z = torch.tanh(z + a[1] * h)
        c = z + f * (c - z)
        o = torch.sigmoid(o + a[2] * h + p[1] * c)
        h = o * torch.tanh(c)
        return (h, c), h
