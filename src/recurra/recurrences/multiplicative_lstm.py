"""The multiplicative LSTM: every input has a transition of its own."""

import torch
from torch import Tensor

from recurra.problem import Lane
from recurra.recurrence import Paper
from recurra.recurrences.cell import Cell


class MultiplicativeLSTM(Cell):
    """m_t = (W_m x_t + b_m) (U_m h_{t-1}),  i, f, o = sigmoid(.), g = tanh(.) of W x_t + b + V m_t
    c_t = f c_{t-1} + i g,  h_t = o tanh(c_t),  y_t = h_t.

    Lane: the layer, h and c: [H]; `recurrent` is U_m, V_i, V_f, V_g, V_o.

    Source: Multiplicative LSTM for sequence modelling, Krause, Lu, Murray, Renals, 2016, arXiv:1609.07959.
    """

    lane = Lane.LAYER
    paper = Paper("Multiplicative LSTM for sequence modelling", "Krause, Lu, Murray, Renals", 2016, "1609.07959")
    gates, products = 5, 5
    states = ("h", "c")

    def step(self, h: Tensor, c: Tensor, x: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
        to_m, to_gates = self.recurrent[: self.hidden], self.recurrent[self.hidden :]
        m = x[: self.hidden] * (to_m @ h)
        i, f, g, o = (x[self.hidden :] + to_gates @ m).chunk(4)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        return (h, c), h
