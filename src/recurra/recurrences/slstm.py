"""sLSTM: an LSTM with exponential gates, a normaliser and a stabiliser, and recurrence within heads."""

import math

import torch
from torch import Tensor, nn

from recurra import options
from recurra.problem import Lane, StepInput, cast, compute_dtype, constant
from recurra.recurrence import Paper, Recurrence


class SLSTM(Recurrence):
    """i~, f~, z~, o~ = W x_t + R h_{t-1} + b;  log f = log sigmoid(f~);  m_t = max(log f + m_{t-1}, i~)
    c_t = exp(log f + m_{t-1} - m_t) c_{t-1} + exp(i~ - m_t) tanh(z~)
    n_t = exp(log f + m_{t-1} - m_t) n_{t-1} + exp(i~ - m_t);  h_t = sigmoid(o~) c_t / n_t,  y_t = h_t.

    Lane: a head, c, n, h, m: [D/heads], R: [4 D/heads, D/heads] per head. W is block-diagonal by head as well.
    While nothing has been stored (n = 0) m_t = i~.
    Initialisation of the forget bias: spread over [3, 6] within a head.

    Source: xLSTM: Extended Long Short-Term Memory, Beck, Pöppel, Spanring, Auer et al., 2024, arXiv:2405.04517.
    """

    lane = Lane.HEAD
    paper = Paper("xLSTM: Extended Long Short-Term Memory", "Beck et al.", 2024, "2405.04517")

    def __init__(self, width: int, heads: int = 4):
        super().__init__(width)
        size = width // options.divisor("heads", heads, width, "width")
        self.heads, self.size = heads, size
        self.weight = nn.Parameter(torch.randn(heads, 4 * size, size) * math.sqrt(2 / (5 * size)))
        self.recurrent = nn.Parameter(torch.zeros(heads, 4 * size, size).normal_(0, size**-0.5))
        bias = torch.zeros(heads, 4, size)
        bias[:, 1] = torch.linspace(3, 6, size)
        self.bias = nn.Parameter(bias.flatten(1))

    def start(self) -> dict[str, Tensor]:
        zero = torch.zeros(self.heads, self.size)
        return {"c": zero, "n": zero, "h": zero, "m": zero}

    def inputs(self, x: Tensor) -> dict[str, Tensor | StepInput]:
        # Which of i and m is larger decides where gradients go, so gates are not rounded to half types on the way.
        # W x_t is a part of the step: within a head it is as small as R h, and the gates need not lie in memory.
        x = cast(x, compute_dtype(x.dtype)).unflatten(-1, (self.heads, -1))
        constants = {"weight": self.weight, "bias": self.bias, "recurrent": self.recurrent}
        return {"x": x} | {name: constant(t) for name, t in constants.items()}

    def step(
        self, c: Tensor, n: Tensor, h: Tensor, m: Tensor, x: Tensor, weight: Tensor, bias: Tensor, recurrent: Tensor
    ) -> tuple[tuple[Tensor, ...], Tensor]:
        return self.gated(c, n, m, weight @ x + bias + recurrent @ h)

    def gated(self, c: Tensor, n: Tensor, m: Tensor, gates: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """The next state and h, given i~, f~, z~ and o~ in a row."""
        i, f, z, o = gates.chunk(4)
        decay = nn.functional.softplus(-f)
        # Nothing stored: any m will do, and this one cannot overflow.
        kept = torch.where(n == 0, i, m - decay)
        new_m = torch.maximum(kept, i)
        keep, admit = torch.exp(kept - new_m), torch.exp(i - new_m)
        c = keep * c + admit * torch.tanh(z)
        n = keep * n + admit
        h = torch.sigmoid(o) * c / n
        return (c, n, h, new_m), h
