"""The minimal gated unit: a GRU with one gate."""

import torch
from torch import Tensor

from recurra.problem import Lane
from recurra.recurrence import Paper
from recurra.recurrences.cell import Cell


class MGU(Cell):
    """f_t = sigmoid(W_f x_t + b_f + U_f h_{t-1}),  n_t = tanh(W_n x_t + b_n + U_n (f_t h_{t-1}))
    h_t = (1 - f_t) h_{t-1} + f_t n_t,  y_t = h_t.

    Lane: the layer, h: [H]; `recurrent` is U_f, U_n.

    Source: Minimal Gated Unit for Recurrent Neural Networks, Zhou, Wu, Zhang, Zhou, 2016, arXiv:1603.09420.
    """

    lane = Lane.LAYER
    paper = Paper("Minimal Gated Unit for Recurrent Neural Networks", "Zhou, Wu, Zhang, Zhou", 2016, "1603.09420")
    gates, products = 2, 2

    def step(self, h: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        to_f, to_n = self.recurrent.chunk(2)
        f, n = x.chunk(2)
        f = torch.sigmoid(f + to_f @ h)
        n = torch.tanh(n + to_n @ (f * h))
        h = h + f * (n - h)
        return h, h
