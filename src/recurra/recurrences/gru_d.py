"""GRU-D: a GRU for series with missing values, which fades what it has not seen for long."""

import torch
from torch import Tensor, nn

from recurra.problem import Lane, StepInput
from recurra.recurrence import Paper
from recurra.recurrences.cell import Cell
from recurra.recurrences.discretisation import lengthened


class GRUD(Cell):
    """fade_x = exp(-max(0, w d + b)),  x^ = m x_t + (1 - m) (fade_x x' + (1 - fade_x) mean)
    fade_h = exp(-max(0, W_d d + b_d)),  h^ = fade_h h_{t-1}
    r, z = sigmoid(W x^ + V m + b + U h^),  n = tanh(W_n x^ + V_n m + b_n + U_n (r h^))
    h_t = (1 - z) h^ + z n,  y_t = h_t.

    Lane: the layer. h: [H]; x_t: [D], NaN where a value is missing: m is 0 there, else 1; x': [D], the last value seen,
    d: [D], the time since then, a sum of `elapsed`; the mean of what is missing, [D], is learned. `from_filled` is W_r,
    W_z, W_n, `recurrent` U_r, U_z, U_n; `to_gates` is V and b.

    Source: Recurrent Neural Networks for Multivariate Time Series with Missing Values, Che, Purushotham, Cho, Sontag,
    Liu, 2016, arXiv:1606.01865. Departures: the paper takes the mean of the training data, and counts time from the
    first time step, not from the start one step before it.
    """

    lane = Lane.LAYER
    paper = Paper(
        "Recurrent Neural Networks for Multivariate Time Series with Missing Values", "Che et al.", 2016, "1606.01865"
    )
    withheld = {"x": "NaN is a missing value, and is replaced by what was seen before"}
    gates, products = 3, 3

    def __init__(self, width: int, hidden: int | None = None):
        super().__init__(width, hidden)
        bound = width**-0.5
        self.from_filled = nn.Parameter(torch.empty(3 * self.hidden, width).uniform_(-bound, bound))
        self.fade_x = nn.Parameter(torch.rand(2, width))
        self.fade_h = nn.Parameter(torch.empty(self.hidden, width).uniform_(-bound, bound))
        self.fade_bias = nn.Parameter(torch.zeros(self.hidden))
        self.mean = nn.Parameter(torch.zeros(width))

    def start(self) -> dict[str, Tensor]:
        return super().start() | {"seen": self.mean, "since": torch.zeros(self.width)}

    def inputs(self, x: Tensor, *, elapsed: Tensor | None = None) -> dict[str, Tensor | StepInput]:
        return {"x": x, "gates": self.to_gates((~torch.isnan(x)).to(x.dtype))} | lengthened(x, elapsed)

    def step(self, h: Tensor, seen: Tensor, since: Tensor, x: Tensor, gates: Tensor, elapsed: Tensor | float = 1.0):
        missing, since = torch.isnan(x), since + elapsed
        weight, bias = self.fade_x
        fade = torch.exp(-torch.relu(weight * since + bias))
        h = torch.exp(-torch.relu(self.fade_h @ since + self.fade_bias)) * h
        filled = torch.where(missing, self.mean + fade * (seen - self.mean), x)
        r, z, n = (gates + self.from_filled @ filled).chunk(3)
        from_r, from_z, from_n = self.recurrent.chunk(3)
        n = torch.tanh(n + from_n @ (torch.sigmoid(r + from_r @ h) * h))
        h = h + torch.sigmoid(z + from_z @ h) * (n - h)
        return (h, torch.where(missing, seen, x), torch.where(missing, since, 0.0)), h
