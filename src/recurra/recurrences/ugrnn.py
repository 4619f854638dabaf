"""The update gate RNN: an Elman network beside a leak that it decides itself."""

import torch
from torch import Tensor

from recurra.problem import Lane
from recurra.recurrence import Paper
from recurra.recurrences.cell import Cell


class UGRNN(Cell):
    """n_t = tanh(W_n x_t + b_n + U_n h_{t-1}),  g_t = sigmoid(W_g x_t + b_g + U_g h_{t-1})
    h_t = g_t h_{t-1} + (1 - g_t) n_t,  y_t = h_t.

    Lane: the layer, h: [H]; `recurrent` is U_n, U_g.

    Source: Capacity and Trainability in Recurrent Neural Networks, Collins, Sohl-Dickstein, Sussillo, 2016,
    arXiv:1611.09913.
    """

    lane = Lane.LAYER
    paper = Paper(
        "Capacity and Trainability in Recurrent Neural Networks",
        "Collins, Sohl-Dickstein, Sussillo",
        2016,
        "1611.09913",
    )
    gates, products = 2, 2

    def step(self, h: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        n, g = (x + self.recurrent @ h).chunk(2)
        n = torch.tanh(n)
        h = n + torch.sigmoid(g) * (h - n)
        return h, h
