"""minLSTM: an LSTM whose gates do not see the state."""

import torch
from torch import Tensor, nn

from recurra import options
from recurra.nn.linear import Linear
from recurra.problem import Lane
from recurra.recurrence import Paper, Recurrence


class MinLSTM(Recurrence):
    """h_t = f'_t h_{t-1} + i'_t v_t,  f' = f / (f + i),  i' = i / (f + i),  f, i = sigmoid(.),  v = g(.) of x_t.

    Lane: a channel, h is a scalar. f' is computed as sigmoid(softplus(-i) - softplus(-f)) of the gates before their
    sigmoid, which is the same number without 0 / 0. g(v) = v + 1/2 for v >= 0 and sigmoid(v) below. y_t = h_t.
    With `negative_eigenvalues` h_{t-1} is multiplied by 2 f'_t - 1, in (-1, 1).

    Source: Were RNNs All We Needed? Feng, Tung, Ahmed, Bengio, Hajimirsadeghi, 2024, arXiv:2410.01201;
    factors below zero: Unlocking State-Tracking in Linear RNNs Through Negative Eigenvalues, Grazzi et al., 2024,
    arXiv:2411.12537.
    """

    lane = Lane.CHANNEL
    paper = Paper("Were RNNs All We Needed?", "Feng, Tung, Ahmed, Bengio, Hajimirsadeghi", 2024, "2410.01201")

    def __init__(self, width: int, negative_eigenvalues: bool = False):
        super().__init__(width)
        self.negative_eigenvalues = options.flag("negative_eigenvalues", negative_eigenvalues)
        self.to_forget = Linear(width, width)
        self.to_input = Linear(width, width)
        self.to_value = Linear(width, width)

    def start(self) -> dict[str, Tensor]:
        return {"h": torch.zeros(self.width)}

    def inputs(self, x: Tensor) -> dict[str, Tensor]:
        return {"forget": self.to_forget(x), "admit": self.to_input(x), "value": self.to_value(x)}

    def step(self, h: Tensor, forget: Tensor, admit: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        keep = torch.sigmoid(nn.functional.softplus(-admit) - nn.functional.softplus(-forget))
        v = torch.where(value >= 0, value + 0.5, torch.sigmoid(value))
        h = (2 * keep - 1) * h + (1 - keep) * v if self.negative_eigenvalues else v + keep * (h - v)
        return h, h
