"""The ordered-neurons LSTM: what is forgotten is forgotten from one end of the state."""

import torch
from torch import nn

from recurra import Lane, Recurrence


class ONLSTM(Recurrence):
    """An LSTM (i, f, o, g as usual, [D]) with two master gates over the order of its cells:

        F = cumax(W_F x + U_F h + b_F),   J = 1 - cumax(W_J x + U_J h + b_J),   cumax = cumsum(softmax(.)),
        w = F J,   f' = f w + F - w,   i' = i w + J - w,
        c_t = f' c_{t-1} + i' g,   h_t = o tanh(c_t).

    Lane: the layer. y_t = h_t. Master gates are [D / chunk], each for `chunk` cells next to each other, as in the
    paper.

    Source: Ordered Neurons: Integrating Tree Structures into Recurrent Neural Networks, Shen, Tan, Sordoni, Courville,
    2018, arXiv:1810.09536.
    """

    lane = Lane.LAYER

    def __init__(self, width: int, chunk: int = 2):
        super().__init__(width)
        self.chunk = chunk
        self.sizes = [width // chunk, width // chunk, width, width, width, width]
        self.from_x = nn.Linear(width, sum(self.sizes))
        self.from_h = nn.Linear(width, sum(self.sizes), bias=False)

    def start(self):
        return {"h": torch.zeros(self.width), "c": torch.zeros(self.width)}

    def inputs(self, x):
        return {"x": self.from_x(x)}

    def step(self, h, c, x):
        master_f, master_i, f, i, g, o = (x + self.from_h(h)).split(self.sizes)
        master_f = torch.cumsum(torch.softmax(master_f, 0), 0).repeat_interleave(self.chunk)
        master_i = 1 - torch.cumsum(torch.softmax(master_i, 0), 0).repeat_interleave(self.chunk)
        both = master_f * master_i
        f = torch.sigmoid(f) * both + master_f - both
        i = torch.sigmoid(i) * both + master_i - both
        c = f * c + i * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        return (h, c), h
