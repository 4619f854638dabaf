"""The phased LSTM: every cell is open for a part of a period of its own, and stands still for the rest."""

import torch
from torch import nn

from recurra import Lane, Recurrence


class PhasedLSTM(Recurrence):
    """With the phase p = ((t - s) mod tau) / tau of each cell, s and tau [D] learned,

        k = 2 p / r           while p < r / 2          (opening)
            2 - 2 p / r       while p < r              (closing)
            leak p            else,
        c' = f c_{t-1} + i g,              c_t = k c' + (1 - k) c_{t-1},
        h' = o tanh(c'),                   h_t = k h' + (1 - k) h_{t-1},

    i, f, o, g of W x_t + U h_{t-1} + b as in an LSTM.

    Lane: the layer. y_t = h_t. Time is counted in the state, one per step, where the paper reads a time stamp; the
    leak holds while training and after, where the paper sets it to zero after. Counted in a float32, time is exact for
    16 million steps.
    Initialisation: tau log-uniform in [1, e^3], s uniform in [0, tau].

    Source: Phased LSTM: Accelerating Recurrent Network Training for Long or Event-based Sequences, Neil, Pfeiffer, Liu,
    2016, arXiv:1610.09513.
    """

    lane = Lane.LAYER

    def __init__(self, width: int, open_for: float = 0.3, leak: float = 0.001):
        super().__init__(width)
        self.open_for, self.leak = open_for, leak
        self.period = nn.Parameter(torch.exp(3 * torch.rand(width)))
        self.shift = nn.Parameter(torch.rand(width) * self.period.detach())
        self.from_x = nn.Linear(width, 4 * width)
        self.from_h = nn.Linear(width, 4 * width, bias=False)

    def start(self):
        return {"h": torch.zeros(self.width), "c": torch.zeros(self.width), "t": torch.zeros(())}

    def inputs(self, x):
        return {"x": self.from_x(x)}

    def step(self, h, c, t, x):
        phase = ((t - self.shift) % self.period) / self.period
        closing = torch.where(phase < self.open_for, 2 - 2 * phase / self.open_for, self.leak * phase)
        k = torch.where(phase < self.open_for / 2, 2 * phase / self.open_for, closing)
        i, f, g, o = (x + self.from_h(h)).chunk(4)
        new_c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        new_h = torch.sigmoid(o) * torch.tanh(new_c)
        c = k * new_c + (1 - k) * c
        h = k * new_h + (1 - k) * h
        return (h, c, t + 1), h
