"""minGRU: a GRU whose gates do not see the state."""

import torch
from torch import Tensor

from recurra import options
from recurra.nn.linear import Linear
from recurra.problem import Lane
from recurra.recurrence import Paper, Recurrence


class MinGRU(Recurrence):
    """h_t = (1 - z_t) h_{t-1} + z_t v_t,  z_t = sigmoid(W_z x_t + b_z),  v_t = g(W_h x_t + b_h).

    Lane: a channel, h is a scalar. g(v) = v + 1/2 for v >= 0 and sigmoid(v) below, which keeps h positive, as in
    the paper's log-space form. y_t = h_t. With `negative_eigenvalues` h_{t-1} is multiplied by 1 - 2 z_t, in (-1, 1).

    Source: Were RNNs All We Needed? Feng, Tung, Ahmed, Bengio, Hajimirsadeghi, 2024, arXiv:2410.01201;
    factors below zero: Unlocking State-Tracking in Linear RNNs Through Negative Eigenvalues, Grazzi et al., 2024,
    arXiv:2411.12537.
    """

    lane = Lane.CHANNEL
    paper = Paper("Were RNNs All We Needed?", "Feng, Tung, Ahmed, Bengio, Hajimirsadeghi", 2024, "2410.01201")

    def __init__(self, width: int, negative_eigenvalues: bool = False):
        super().__init__(width)
        self.most = 2.0 if options.flag("negative_eigenvalues", negative_eigenvalues) else 1.0
        self.to_gate = Linear(width, width)
        self.to_value = Linear(width, width)

    def start(self) -> dict[str, Tensor]:
        return {"h": torch.zeros(self.width)}

    def inputs(self, x: Tensor) -> dict[str, Tensor]:
        return {"gate": self.to_gate(x), "value": self.to_value(x)}

    def step(self, h: Tensor, gate: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        z = torch.sigmoid(gate)
        v = torch.where(value >= 0, value + 0.5, torch.sigmoid(value))
        h = h + z * (v - self.most * h)
        return h, h
