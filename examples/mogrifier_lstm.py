"""The Mogrifier LSTM: input and state gate each other before an LSTM reads them."""

import torch
from torch import nn

from recurra import Lane, Recurrence


class MogrifierLSTM(Recurrence):
    """For i = 1 to r, with x^-1 = x_t [D] and h^0 = h_{t-1} [D]:

        x^i = 2 sigmoid(Q^i h^{i-1}) x^{i-2}      for odd i,
        h^i = 2 sigmoid(R^i x^{i-1}) h^{i-2}      for even i,

    then an LSTM on the last of each: i, f, o = sigmoid(.), g = tanh(.) of W x + U h + b,
    c_t = f c_{t-1} + i g,  h_t = o tanh(c_t).  Q^i, R^i, W, U: [D, D] each.

    Lane: the layer. y_t = h_t. Q and R are full matrices; the paper also tries products of two of low rank.

    Source: Mogrifier LSTM, Melis, Kocisky, Blunsom, 2019, arXiv:1909.01792.
    """

    lane = Lane.LAYER

    def __init__(self, width: int, rounds: int = 5):
        super().__init__(width)
        self.gates_of_each_other = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(rounds))
        self.from_x = nn.Linear(width, 4 * width)
        self.from_h = nn.Linear(width, 4 * width, bias=False)

    def start(self):
        return {"h": torch.zeros(self.width), "c": torch.zeros(self.width)}

    def inputs(self, x):
        return {"x": x}

    def step(self, h, c, x):
        for i, gate in enumerate(self.gates_of_each_other):
            if i % 2 == 0:
                x = 2 * torch.sigmoid(gate(h)) * x
            else:
                h = 2 * torch.sigmoid(gate(x)) * h
        i, f, g, o = (self.from_x(x) + self.from_h(h)).chunk(4)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        return (h, c), h
