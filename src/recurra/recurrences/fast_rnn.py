"""FastRNN: a residual connection over time with two weights."""

import torch
from torch import Tensor, nn

from recurra.problem import Lane
from recurra.recurrence import Paper
from recurra.recurrences.cell import Cell


class FastRNN(Cell):
    """n_t = tanh(W x_t + b + U h_{t-1}),  h_t = sigmoid(alpha) n_t + sigmoid(beta) h_{t-1},  y_t = h_t.

    Lane: the layer, h: [H]; `recurrent` is U; alpha and beta are numbers. Initialisation: alpha -3, beta 3.

    Source: FastGRNN: A Fast, Accurate, Stable and Tiny Kilobyte Sized Gated Recurrent Neural Network, Kusupati, Singh,
    Bhatia, Kumar, Jain, Varma, 2018, arXiv:1901.02358.
    """

    lane = Lane.LAYER
    paper = Paper(
        "FastGRNN: A Fast, Accurate, Stable and Tiny Kilobyte Sized Gated RNN", "Kusupati et al.", 2018, "1901.02358"
    )
    gates, products = 1, 1

    def __init__(self, width: int, hidden: int | None = None):
        super().__init__(width, hidden)
        self.alpha, self.beta = nn.Parameter(torch.tensor(-3.0)), nn.Parameter(torch.tensor(3.0))

    def step(self, h: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        n = torch.tanh(x + self.recurrent @ h)
        h = torch.sigmoid(self.alpha) * n + torch.sigmoid(self.beta) * h
        return h, h
