"""STAR: a cell for networks that are deep in layers as well as in time."""

import torch
from torch import Tensor

from recurra.problem import Lane
from recurra.recurrence import Paper
from recurra.recurrences.cell import Cell


class STAR(Cell):
    """z_t = tanh(W_z x_t + b_z),  k_t = sigmoid(W_k x_t + b_k + U h_{t-1})
    h_t = tanh((1 - k_t) h_{t-1} + k_t z_t),  y_t = h_t.

    Lane: the layer, h: [H]; `recurrent` is U.

    Source: Gating Revisited: Deep Multi-layer RNNs That Can Be Trained, Turkoglu, D'Aronco, Wegner, Schindler, 2019,
    arXiv:1911.11033.
    """

    lane = Lane.LAYER
    paper = Paper(
        "Gating Revisited: Deep Multi-layer RNNs That Can Be Trained",
        "Turkoglu, D'Aronco, Wegner, Schindler",
        2019,
        "1911.11033",
    )
    gates, products = 2, 1

    def step(self, h: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        z, k = x.chunk(2)
        k = torch.sigmoid(k + self.recurrent @ h)
        h = torch.tanh(h + k * (torch.tanh(z) - h))
        return h, h
