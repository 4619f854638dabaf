"""What LSTM and GRU share: parameters laid out as in `torch.nn`, split into heads."""

import math

import torch
from torch import Tensor, nn

from recurra import options
from recurra.nn.linear import linear
from recurra.recurrence import Recurrence


class GatedNetwork(Recurrence):
    """Input and recurrent weights for `gates` gates; each head has its own block of rows."""

    gates: int

    def __init__(self, width: int, hidden: int | None = None, heads: int = 1):
        super().__init__(width)
        hidden = self.hidden = width if hidden is None else options.count("hidden", hidden)
        self.heads = options.divisor("heads", heads, hidden, "hidden size")
        bound = (hidden // heads) ** -0.5 if heads > 1 else 1 / math.sqrt(hidden)
        rows = self.gates * hidden
        self.weight_ih_l0 = nn.Parameter(torch.empty(rows, width).uniform_(-bound, bound))
        self.weight_hh_l0 = nn.Parameter(torch.empty(rows, hidden // heads).uniform_(-bound, bound))
        self.bias_ih_l0 = nn.Parameter(torch.empty(rows).uniform_(-bound, bound))
        self.bias_hh_l0 = nn.Parameter(torch.empty(rows).uniform_(-bound, bound))

    def project(self, x: Tensor, bias: Tensor) -> Tensor:
        """W_ih x + bias as [B, T, heads, gates * H/heads]."""
        return linear(x, self.weight_ih_l0, bias.to(x.dtype)).unflatten(-1, (self.heads, -1))

    def head_weights(self) -> Tensor:
        """W_hh as [heads, gates * H/heads, H/heads]."""
        return self.weight_hh_l0.unflatten(0, (self.heads, -1))
