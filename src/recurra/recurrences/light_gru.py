"""The light GRU of speech recognition: no reset gate, and relu for tanh."""

import torch
from torch import Tensor

from recurra.problem import Lane
from recurra.recurrence import Paper
from recurra.recurrences.cell import Cell


class LightGRU(Cell):
    """z_t = sigmoid(W_z x_t + b_z + U_z h_{t-1}),  n_t = relu(W_n x_t + b_n + U_n h_{t-1})
    h_t = z_t h_{t-1} + (1 - z_t) n_t,  y_t = h_t.

    Lane: the layer, h: [H]; `recurrent` is U_z, U_n.

    Source: Light Gated Recurrent Units for Speech Recognition, Ravanelli, Brakel, Omologo, Bengio, 2018,
    arXiv:1803.10225. Departure: the paper normalises W x over the batch; here sequences do not see each other, and
    there are biases.
    """

    lane = Lane.LAYER
    paper = Paper(
        "Light Gated Recurrent Units for Speech Recognition",
        "Ravanelli, Brakel, Omologo, Bengio",
        2018,
        "1803.10225",
    )
    gates, products = 2, 2

    def step(self, h: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        z, n = (x + self.recurrent @ h).chunk(2)
        n = torch.relu(n)
        h = n + torch.sigmoid(z) * (h - n)
        return h, h
