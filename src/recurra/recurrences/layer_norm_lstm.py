"""The LSTM with layer normalisation of what comes in, of what goes round and of the cells."""

import torch
from torch import Tensor, nn

from recurra import options
from recurra.problem import Lane
from recurra.recurrence import Paper
from recurra.recurrences.cell import Cell


class LayerNormLSTM(Cell):
    """i, f, o = sigmoid(.), g = tanh(.) of w_x LN(W x_t + b) + w_h LN(U h_{t-1}) + v
    c_t = f c_{t-1} + i g,  h_t = o tanh(w_c LN(c_t) + v_c),  y_t = h_t.

    Lane: the layer, h and c: [H]. LN(a) = (a - mean(a)) / sqrt(var(a) + eps), over all 4 H of the gates at once.
    `recurrent` is U_i, U_f, U_g, U_o. Initialisation: w 1, v 0.

    Source: Layer Normalization, Ba, Kiros, Hinton, 2016, arXiv:1607.06450. Departure: W x_t has a bias as well.
    """

    lane = Lane.LAYER
    paper = Paper("Layer Normalization", "Ba, Kiros, Hinton", 2016, "1607.06450")
    gates, products = 4, 4
    states = ("h", "c")

    def __init__(self, width: int, hidden: int | None = None, eps: float = 1e-5):
        super().__init__(width, hidden)
        self.eps = options.number("eps", eps, 0)
        self.weight_x, self.weight_h = (nn.Parameter(torch.ones(4 * self.hidden)) for _ in range(2))
        self.bias = nn.Parameter(torch.zeros(4 * self.hidden))
        self.weight_c, self.bias_c = nn.Parameter(torch.ones(self.hidden)), nn.Parameter(torch.zeros(self.hidden))

    def step(self, h: Tensor, c: Tensor, x: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
        gates = self.weight_x * self._normed(x) + self.weight_h * self._normed(self.recurrent @ h) + self.bias
        i, f, g, o = gates.chunk(4)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(self.weight_c * self._normed(c) + self.bias_c)
        return (h, c), h

    def _normed(self, x: Tensor) -> Tensor:
        return nn.functional.layer_norm(x, x.shape, eps=self.eps)
