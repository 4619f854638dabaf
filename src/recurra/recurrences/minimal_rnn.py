"""MinimalRNN: one gate between the past and a latent form of x."""

import torch
from torch import Tensor

from recurra.nn.linear import Linear
from recurra.problem import Lane
from recurra.recurrence import Paper
from recurra.recurrences.cell import Cell


class MinimalRNN(Cell):
    """z_t = tanh(W x_t + b),  u_t = sigmoid(U_h h_{t-1} + U_z z_t + b_u)
    h_t = u_t h_{t-1} + (1 - u_t) z_t,  y_t = h_t.

    Lane: the layer, h: [H]; `recurrent` is U_h, `to_update` is U_z with b_u.

    Source: MinimalRNN: Toward More Interpretable and Trainable Recurrent Neural Networks, Chen, 2017, arXiv:1711.06788.
    """

    lane = Lane.LAYER
    paper = Paper("MinimalRNN: Toward More Interpretable and Trainable RNNs", "Chen", 2017, "1711.06788")
    gates, products = 1, 1

    def __init__(self, width: int, hidden: int | None = None):
        super().__init__(width, hidden)
        self.to_update = Linear(self.hidden, self.hidden)

    def inputs(self, x: Tensor) -> dict[str, Tensor]:
        z = torch.tanh(self.to_gates(x))
        return {"z": z, "u": self.to_update(z)}

    def step(self, h: Tensor, z: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        h = z + torch.sigmoid(u + self.recurrent @ h) * (h - z)
        return h, h
