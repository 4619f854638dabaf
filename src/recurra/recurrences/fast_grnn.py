"""FastGRNN: one pair of matrices for the gate and for what it lets in."""

import torch
from torch import Tensor, nn

from recurra.problem import Lane
from recurra.recurrence import Paper
from recurra.recurrences.cell import Cell


class FastGRNN(Cell):
    """p_t = W x_t + U h_{t-1},  z_t = sigmoid(p_t + b_z),  n_t = tanh(p_t + b_n)
    h_t = (sigmoid(zeta) (1 - z_t) + sigmoid(nu)) n_t + z_t h_{t-1},  y_t = h_t.

    Lane: the layer, h: [H]; `recurrent` is U; b_n is the bias of `to_gates`, `gate_bias` is b_z - b_n; zeta and nu are
    numbers. Initialisation: zeta 1, nu -4, b_z - b_n one.

    Source: FastGRNN: A Fast, Accurate, Stable and Tiny Kilobyte Sized Gated Recurrent Neural Network, Kusupati, Singh,
    Bhatia, Kumar, Jain, Varma, 2018, arXiv:1901.02358. Its matrices of low rank and few entries are not here.
    """

    lane = Lane.LAYER
    paper = Paper(
        "FastGRNN: A Fast, Accurate, Stable and Tiny Kilobyte Sized Gated RNN", "Kusupati et al.", 2018, "1901.02358"
    )
    gates, products = 1, 1

    def __init__(self, width: int, hidden: int | None = None):
        super().__init__(width, hidden)
        self.gate_bias = nn.Parameter(torch.ones(self.hidden))
        self.zeta, self.nu = nn.Parameter(torch.tensor(1.0)), nn.Parameter(torch.tensor(-4.0))

    def step(self, h: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        n = x + self.recurrent @ h
        z, n = torch.sigmoid(n + self.gate_bias), torch.tanh(n)
        h = (torch.sigmoid(self.zeta) * (1 - z) + torch.sigmoid(self.nu)) * n + z * h
        return h, h
