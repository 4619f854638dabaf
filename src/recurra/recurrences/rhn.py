"""The recurrent highway network: several highway layers within each time step."""

import torch
from torch import Tensor, nn

from recurra import options
from recurra.problem import Lane
from recurra.recurrence import Paper
from recurra.recurrences.cell import Cell


class RHN(Cell):
    """s_0 = h_{t-1};  for l = 1 ... depth, with W only where l = 1:
    n = tanh(W_n x_t + R_n^l s_{l-1} + b_n^l),  g = sigmoid(W_g x_t + R_g^l s_{l-1} + b_g^l)
    s_l = g n + (1 - g) s_{l-1};  h_t = s_depth,  y_t = h_t.

    Lane: the layer, h: [H]; `recurrent` [2 H, H] and the biases of `to_gates` are those of the first layer, `deeper`
    [depth - 1, 2 H, H] and `bias` [depth - 1, 2 H] of the others; carry and transform gates are coupled, c = 1 - g.
    Initialisation: b_g is -2, so that at first most is carried.

    Source: Recurrent Highway Networks, Zilly, Srivastava, Koutník, Schmidhuber, 2016, arXiv:1607.03474.
    """

    lane = Lane.LAYER
    paper = Paper("Recurrent Highway Networks", "Zilly, Srivastava, Koutník, Schmidhuber", 2016, "1607.03474")
    gates, products = 2, 2

    def __init__(self, width: int, hidden: int | None = None, depth: int = 3):
        super().__init__(width, hidden)
        rows, bound = 2 * self.hidden, self.hidden**-0.5
        more = options.count("depth", depth, options.LAYERS) - 1
        self.deeper = nn.Parameter(torch.empty(more, rows, self.hidden).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(more, rows))
        with torch.no_grad():
            self.to_gates.bias[self.hidden :] = -2
            self.bias[:, self.hidden :] = -2

    def step(self, h: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        h = highway(h, x + self.recurrent @ h)
        for weight, bias in zip(self.deeper, self.bias, strict=True):
            h = highway(h, bias + weight @ h)
        return h, h


def highway(h: Tensor, gates: Tensor) -> Tensor:
    """g tanh(n) + (1 - g) h, where `gates` [2 H] are n and the logit of g."""
    n, g = gates.chunk(2)
    return h + torch.sigmoid(g) * (torch.tanh(n) - h)
