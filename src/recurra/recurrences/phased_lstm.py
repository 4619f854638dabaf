"""The phased LSTM: each unit is open to change for a short part of a rhythm of its own."""

import math

import torch
from torch import Tensor, nn

from recurra import options
from recurra.problem import Lane, StepInput
from recurra.recurrence import Paper
from recurra.recurrences.cell import Cell
from recurra.recurrences.discretisation import lengthened


class PhasedLSTM(Cell):
    """phi = ((t - s) mod tau) / tau;  k = 2 phi / r if phi < r / 2, 2 - 2 phi / r if phi < r, else alpha phi
    i, f = sigmoid(. + p c_{t-1}), g = tanh(.) of W x_t + b + U h_{t-1};  c' = f c_{t-1} + i g;  o = sigmoid(. + p_o c')
    c_t = k c' + (1 - k) c_{t-1},  h_t = k o tanh(c') + (1 - k) h_{t-1},  y_t = h_t.

    Lane: the layer, h and c: [H], and t, the time: 0 at first, and each step `elapsed` later than the one before.
    `recurrent` is U_i, U_f, U_g, U_o, `peepholes` [3, H]. The period tau = exp(`log_period`) and the shift s are [H];
    r = `open` is the part of a period in which a unit is open. In training `leak`, alpha, lets gradients through the
    rest. Initialisation: tau log-uniform in [1, `longest`], s uniform in [0, tau].

    Source: Phased LSTM: Accelerating Recurrent Network Training for Long or Event-based Sequences, Neil, Pfeiffer, Liu,
    2016, arXiv:1610.09513. Departure: alpha acts while evaluating as well.
    """

    lane = Lane.LAYER
    paper = Paper("Phased LSTM: Accelerating Recurrent Network Training", "Neil, Pfeiffer, Liu", 2016, "1610.09513")
    gates, products = 4, 4

    def __init__(
        self,
        width: int,
        hidden: int | None = None,
        longest: float = 1000.0,
        open: float = 0.05,
        leak: float = 0.001,
    ):
        super().__init__(width, hidden)
        longest, self.leak = options.number("longest", longest, 1), options.number("leak", leak, 0)
        self.open = options.number("open", open, 1e-6, math.nextafter(1, 2))
        self.log_period = nn.Parameter(torch.rand(self.hidden) * math.log(longest))
        self.shift = nn.Parameter(torch.rand(self.hidden) * torch.exp(self.log_period.detach()))
        self.peepholes = nn.Parameter(torch.zeros(3, self.hidden))

    def start(self) -> dict[str, Tensor]:
        return {"h": torch.zeros(self.hidden), "c": torch.zeros(self.hidden), "t": torch.zeros(())}

    def inputs(self, x: Tensor, *, elapsed: Tensor | None = None) -> dict[str, Tensor | StepInput]:
        return super().inputs(x) | lengthened(x, elapsed)

    def step(self, h: Tensor, c: Tensor, t: Tensor, x: Tensor, elapsed: Tensor | None = None):
        t = t if elapsed is None else t + (elapsed - 1)
        turns = (t - self.shift) / torch.exp(self.log_period)
        phase, half = turns - torch.floor(turns), self.open / 2
        k = torch.where(phase < 2 * half, 2 - phase / half, self.leak * phase)
        k = torch.where(phase < half, phase / half, k)
        i, f, g, o = (x + self.recurrent @ h).chunk(4)
        see_i, see_f, see_o = self.peepholes
        new = torch.sigmoid(f + see_f * c) * c + torch.sigmoid(i + see_i * c) * torch.tanh(g)
        out = torch.sigmoid(o + see_o * new) * torch.tanh(new)
        c, h = c + k * (new - c), h + k * (out - h)
        return (h, c, t + 1), h
