"""JANET: an LSTM with a forget gate only."""

import torch
from torch import Tensor

from recurra import options
from recurra.problem import Lane
from recurra.recurrence import Paper
from recurra.recurrences.cell import Cell


class JANET(Cell):
    """s_t = W_s x_t + b_s + U_s h_{t-1},  n_t = tanh(W_n x_t + b_n + U_n h_{t-1})
    h_t = sigmoid(s_t) h_{t-1} + (1 - sigmoid(s_t - beta)) n_t,  y_t = h_t.

    Lane: the layer, h: [H]; `recurrent` is U_s, U_n; `beta` lets in more than is forgotten.
    Initialisation: chrono, for memories of up to `horizon` time steps: exp(b_s) uniform in [1, horizon - 1].

    Source: The unreasonable effectiveness of the forget gate, van der Westhuizen, Lasenby, 2018, arXiv:1804.04849.
    There the horizon
    is the length of the task's sequences.
    """

    lane = Lane.LAYER
    paper = Paper(
        "The unreasonable effectiveness of the forget gate", "van der Westhuizen, Lasenby", 2018, "1804.04849"
    )
    gates, products = 2, 2

    def __init__(self, width: int, hidden: int | None = None, beta: float = 1.0, horizon: int = 100):
        super().__init__(width, hidden)
        self.beta = options.number("beta", beta, 0)
        longest = max(options.count("horizon", horizon) - 2, 0)
        with torch.no_grad():
            self.to_gates.bias[: self.hidden] = torch.log1p(longest * torch.rand(self.hidden))
            self.to_gates.bias[self.hidden :] = 0

    def step(self, h: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        s, n = (x + self.recurrent @ h).chunk(2)
        h = torch.sigmoid(s) * h + (1 - torch.sigmoid(s - self.beta)) * torch.tanh(n)
        return h, h
