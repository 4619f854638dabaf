"""The UR-LSTM: a forget gate with a refinement, spread over all time scales from the start."""

import torch
from torch import Tensor, nn

from recurra.problem import Lane
from recurra.recurrence import Paper
from recurra.recurrences.cell import Cell


class URLSTM(Cell):
    """f = sigmoid(L_f + b_f), r = sigmoid(L_r - b_f), u = tanh(L_u), o = sigmoid(L_o) with L = W x_t + b + U h_{t-1}
    g = r (1 - (1 - f)^2) + (1 - r) f^2,  c_t = g c_{t-1} + (1 - g) u,  h_t = o tanh(c_t),  y_t = h_t.

    Lane: the layer, h and c: [H]; `recurrent` is U_f, U_r, U_u, U_o, and `spread` is b_f: [H].
    Initialisation: sigmoid(b_f) uniform in [1/H, 1 - 1/H], by which b of f and r is zero.

    Source: Improving the Gating Mechanism of Recurrent Neural Networks, Gu, Gulcehre, Paine, Hoffman, Pascanu, 2019,
    arXiv:1910.09890.
    """

    lane = Lane.LAYER
    paper = Paper(
        "Improving the Gating Mechanism of Recurrent Neural Networks",
        "Gu, Gulcehre, Paine, Hoffman, Pascanu",
        2019,
        "1910.09890",
    )
    gates, products = 4, 4
    states = ("h", "c")

    def __init__(self, width: int, hidden: int | None = None):
        super().__init__(width, hidden)
        hidden = self.hidden
        least = min(1 / hidden, 0.5)
        self.spread = nn.Parameter(torch.logit(torch.empty(hidden).uniform_(least, 1 - least)))
        with torch.no_grad():
            self.to_gates.bias[: 2 * hidden] = 0

    def step(self, h: Tensor, c: Tensor, x: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
        f, r, u, o = (x + self.recurrent @ h).chunk(4)
        f, r = torch.sigmoid(f + self.spread), torch.sigmoid(r - self.spread)
        g = r * (1 - (1 - f) ** 2) + (1 - r) * f**2
        u = torch.tanh(u)
        c = u + g * (c - u)
        h = torch.sigmoid(o) * torch.tanh(c)
        return (h, c), h
