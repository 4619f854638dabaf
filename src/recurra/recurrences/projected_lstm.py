"""The LSTM whose output is projected to fewer numbers before it goes round; the parameters of `torch.nn.LSTM`."""

import math

import torch
from torch import Tensor, nn

from recurra import options
from recurra.nn.linear import linear
from recurra.problem import Lane
from recurra.recurrence import Paper, Recurrence


class ProjectedLSTM(Recurrence):
    """i, f, o = sigmoid(.), g = tanh(.) of W_ih x_t + b_ih + W_hh r_{t-1} + b_hh
    c_t = f c_{t-1} + i g,  r_t = W_hr (o tanh(c_t)),  y_t = r_t.

    Lane: the layer, c: [H], r: [P] with P = `projection`, by default H / 2. W_ih: [4 H, D], W_hh: [4 H, P],
    W_hr: [P, H]. Parameters are named and laid out as in a one-layer `torch.nn.LSTM` with `proj_size`.

    Source: Long Short-Term Memory Based Recurrent Neural Network Architectures for Large Vocabulary Speech
    Recognition, Sak, Senior, Beaufays, 2014, arXiv:1402.1128. Departures: there are no peepholes and no part of the
    output that does not go round, as in `torch.nn.LSTM`.
    """

    lane = Lane.LAYER
    paper = Paper(
        "LSTM Based RNN Architectures for Large Vocabulary Speech Recognition",
        "Sak, Senior, Beaufays",
        2014,
        "1402.1128",
    )

    def __init__(self, width: int, hidden: int | None = None, projection: int | None = None):
        super().__init__(width)
        H = self.hidden = width if hidden is None else options.count("hidden", hidden)
        P = self.projection = max(H // 2, 1) if projection is None else options.count("projection", projection)
        bound = 1 / math.sqrt(H)
        self.weight_ih_l0 = nn.Parameter(torch.empty(4 * H, width).uniform_(-bound, bound))
        self.weight_hh_l0 = nn.Parameter(torch.empty(4 * H, P).uniform_(-bound, bound))
        self.bias_ih_l0 = nn.Parameter(torch.empty(4 * H).uniform_(-bound, bound))
        self.bias_hh_l0 = nn.Parameter(torch.empty(4 * H).uniform_(-bound, bound))
        self.weight_hr_l0 = nn.Parameter(torch.empty(P, H).uniform_(-bound, bound))

    def start(self) -> dict[str, Tensor]:
        return {"h": torch.zeros(self.projection), "c": torch.zeros(self.hidden)}

    def inputs(self, x: Tensor) -> dict[str, Tensor]:
        bias = self.bias_ih_l0 + self.bias_hh_l0
        return {"gates": linear(x, self.weight_ih_l0, bias.to(x.dtype))}

    def step(self, h: Tensor, c: Tensor, gates: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
        i, f, g, o = (gates + self.weight_hh_l0 @ h).chunk(4)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = self.weight_hr_l0 @ (torch.sigmoid(o) * torch.tanh(c))
        return (h, c), h
