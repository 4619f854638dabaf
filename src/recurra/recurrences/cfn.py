"""The chaos-free network: without input, its state falls asleep."""

import torch
from torch import Tensor

from recurra.problem import Lane
from recurra.recurrence import Paper
from recurra.recurrences.cell import Cell


class CFN(Cell):
    """q_t, e_t = sigmoid(W x_t + b + U h_{t-1}),  h_t = q_t tanh(h_{t-1}) + e_t tanh(W_n x_t + b_n),  y_t = h_t.

    Lane: the layer, h: [H]; `recurrent` is U_q, U_e, of the paper's theta, the horizontal gate, and eta, the
    vertical one.

    Source: A recurrent neural network without chaos, Laurent, von Brecht, 2016, arXiv:1612.06212. There b_n is zero.
    """

    lane = Lane.LAYER
    paper = Paper("A recurrent neural network without chaos", "Laurent, von Brecht", 2016, "1612.06212")
    gates, products = 3, 2

    def step(self, h: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        gates, n = x[: 2 * self.hidden], x[2 * self.hidden :]
        q, e = torch.sigmoid(gates + self.recurrent @ h).chunk(2)
        h = q * torch.tanh(h) + e * torch.tanh(n)
        return h, h
