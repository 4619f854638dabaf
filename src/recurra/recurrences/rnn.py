"""The Elman network, with the parameters of `torch.nn.RNN`."""

import math

import torch
from torch import Tensor, nn

from recurra import options
from recurra.nn.linear import linear
from recurra.problem import Lane
from recurra.recurrence import Paper, Recurrence


class RNN(Recurrence):
    """h_t = f(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh),  f = tanh or relu,  y_t = h_t.

    Lane: the layer, h: [H]. Parameters are named and laid out as in a one-layer `torch.nn.RNN`.

    Source: Finding Structure in Time, Elman, 1990, Cognitive Science 14.
    """

    lane = Lane.LAYER
    paper = Paper("Finding Structure in Time", "Elman", 1990)

    def __init__(self, width: int, hidden: int | None = None, nonlinearity: str = "tanh"):
        super().__init__(width)
        self.hidden = width if hidden is None else options.count("hidden", hidden)
        self.nonlinearity = options.choice("nonlinearity", nonlinearity, ("tanh", "relu"))
        bound = 1 / math.sqrt(self.hidden)
        self.weight_ih_l0 = nn.Parameter(torch.empty(self.hidden, width).uniform_(-bound, bound))
        self.weight_hh_l0 = nn.Parameter(torch.empty(self.hidden, self.hidden).uniform_(-bound, bound))
        self.bias_ih_l0 = nn.Parameter(torch.empty(self.hidden).uniform_(-bound, bound))
        self.bias_hh_l0 = nn.Parameter(torch.empty(self.hidden).uniform_(-bound, bound))

    def start(self) -> dict[str, Tensor]:
        return {"h": torch.zeros(self.hidden)}

    def inputs(self, x: Tensor) -> dict[str, Tensor]:
        bias = self.bias_ih_l0 + self.bias_hh_l0
        return {"x": linear(x, self.weight_ih_l0, bias.to(x.dtype))}

    def step(self, h: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        total = x + self.weight_hh_l0 @ h
        h = torch.tanh(total) if self.nonlinearity == "tanh" else torch.relu(total)
        return h, h
