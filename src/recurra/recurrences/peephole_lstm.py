"""The LSTM whose gates see the cells through peepholes."""

import torch
from torch import Tensor, nn

from recurra.problem import Lane
from recurra.recurrence import Paper
from recurra.recurrences.cell import Cell


class PeepholeLSTM(Cell):
    """i, f, o = sigmoid(.), g = tanh(.) of W x_t + b + U h_{t-1}, and for i and f + p c_{t-1}, for o + p_o c_t
    c_t = f c_{t-1} + i g,  h_t = o tanh(c_t),  y_t = h_t.

    Lane: the layer, h and c: [H]; `recurrent` is U_i, U_f, U_g, U_o; `peepholes` is p_i, p_f, p_o: [3, H].
    Initialisation: peepholes 0.

    Source: Learning Precise Timing with LSTM Recurrent Networks, Gers, Schraudolph, Schmidhuber, 2002, JMLR 3.
    """

    lane = Lane.LAYER
    paper = Paper("Learning Precise Timing with LSTM Recurrent Networks", "Gers, Schraudolph, Schmidhuber", 2002)
    gates, products = 4, 4
    states = ("h", "c")

    def __init__(self, width: int, hidden: int | None = None):
        super().__init__(width, hidden)
        self.peepholes = nn.Parameter(torch.zeros(3, self.hidden))

    def step(self, h: Tensor, c: Tensor, x: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
        i, f, g, o = (x + self.recurrent @ h).chunk(4)
        see_i, see_f, see_o = self.peepholes
        i, f = torch.sigmoid(i + see_i * c), torch.sigmoid(f + see_f * c)
        c = f * c + i * torch.tanh(g)
        h = torch.sigmoid(o + see_o * c) * torch.tanh(c)
        return (h, c), h
