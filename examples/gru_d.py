"""GRU-D: a GRU for series with gaps, which fades what it has not seen for long."""

import torch
from torch import nn

from recurra import Lane, Recurrence


class GRUD(Recurrence):
    """x_t [D], NaN where a value is missing; m_t [D] is 1 where it is not, x' [D] is the last value seen, d [D] the
    time since then.

        fade_x = exp(-max(0, w d + b)),    fade_h = exp(-max(0, W d + b'))
        x^ = m x_t + (1 - m) (fade_x x' + (1 - fade_x) mean),    h^ = fade_h h_{t-1}
        r, z = sigmoid(W x^ + U h^ + V m + b),    c = tanh(W_c x^ + U_c (r h^) + V_c m + b_c)
        h_t = (1 - z) h^ + z c

    Lane: the layer. y_t = h_t. One time step is one unit of time. The mean is learned, where the paper takes that of
    the training data.

    Source: Recurrent Neural Networks for Multivariate Time Series with Missing Values, Che, Purushotham, Cho, Sontag,
    Liu, 2016, arXiv:1606.01865.
    """

    lane = Lane.LAYER
    withheld = {"x": "NaN is a missing value, and is replaced by what was seen before"}

    def __init__(self, width: int):
        super().__init__(width)
        self.fade_x = nn.Parameter(torch.rand(2, width))
        self.fade_h = nn.Linear(width, width)
        self.mean = nn.Parameter(torch.zeros(width))
        self.to_gates = nn.Linear(3 * width, 2 * width)
        self.to_candidate = nn.Linear(3 * width, width)

    def start(self):
        nothing = torch.zeros(self.width)
        return {"h": nothing, "last": self.mean, "since": nothing}

    def inputs(self, x):
        return {"x": x}

    def step(self, h, last, since, x):
        missing = torch.isnan(x)
        since = since + 1
        weight, bias = self.fade_x
        fade = torch.exp(-torch.relu(weight * since + bias))
        h = torch.exp(-torch.relu(self.fade_h(since))) * h
        last = torch.where(missing, last, x)
        x = torch.where(missing, fade * last + (1 - fade) * self.mean, last)
        seen = torch.where(missing, 0.0, 1.0).to(h.dtype)
        r, z = torch.sigmoid(self.to_gates(torch.cat([x, h, seen]))).chunk(2)
        c = torch.tanh(self.to_candidate(torch.cat([x, r * h, seen])))
        h = h + z * (c - h)
        return (h, last, torch.where(missing, since, 0.0)), h
