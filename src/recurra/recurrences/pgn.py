"""The parallel gated network: one step of gating on a summary of the last time steps, in the place of a recurrence."""

import torch
from torch import Tensor

from recurra import options
from recurra.nn.linear import Linear
from recurra.problem import Lane
from recurra.recurrence import Paper, Recurrence


class PGN(Recurrence):
    """H_t = W (x_{t-1}, ..., x_{t-L}) + b,  g_t = sigmoid(V_g (x_t, H_t) + b_g),  n_t = tanh(V_n (x_t, H_t) + b_n)
    y_t = g_t H_t + (1 - g_t) n_t.

    Lane: a channel, whose state is its last L = `span` values, the newest first; all else is done for all time steps at
    once. H, g, n: [hidden]; W reads all channels of a time step before those of the one before it.

    Source: PGN: The RNN's New Successor is Effective for Long-Range Time Series Forecasting, Jia, Lin, Yu, Zhao, Lin,
    2024, arXiv:2409.17703.
    """

    lane = Lane.CHANNEL
    paper = Paper("PGN: The RNN's New Successor", "Jia, Lin, Yu, Zhao, Lin", 2024, "2409.17703")

    def __init__(self, width: int, hidden: int | None = None, span: int = 16):
        super().__init__(width)
        hidden = self.hidden = width if hidden is None else options.count("hidden", hidden)
        self.span = options.count("span", span)
        self.to_summary = Linear(width * span, hidden)
        self.to_gates = Linear(width + hidden, 2 * hidden)

    def start(self) -> dict[str, Tensor]:
        return {"h": torch.zeros(self.width, self.span)}

    def inputs(self, x: Tensor) -> dict[str, Tensor]:
        return {"x": x}

    def step(self, h: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        return torch.cat([x[None], h[:-1]]), h

    def outputs(self, y: Tensor, x: Tensor) -> Tensor:
        H = self.to_summary(y.mT.flatten(2))
        g, n = self.to_gates(torch.cat([x, H], -1)).chunk(2, -1)
        n = torch.tanh(n)
        return n + torch.sigmoid(g) * (H - n)
