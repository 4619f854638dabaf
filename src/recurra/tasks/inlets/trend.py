"""A series apart: where it has been going, and the rest."""

from __future__ import annotations

import torch
from torch import Tensor

from recurra import options
from recurra.problem import Lane
from recurra.recurrence import Recurrence


class Trend(Recurrence):
    """x [B, T, D] to [B, T, 2 D]: the mean of about the last `memory` steps, then what x is beyond it.

    n_t = n_{t-1} + 1,  m_t = m_{t-1} + (x_t - m_{t-1}) / min(n_t, memory),  y_t = (m_t, x_t - m_t). Lane: channel.

    Source: the decomposition of xLSTMTime: Long-term Time Series Forecasting With xLSTM, Alharthi, Mahmood, 2024,
    arXiv:2407.10240. Departure: theirs is a centred mean, which looks ahead; this one has seen the past alone.
    """

    lane = Lane.CHANNEL

    def __init__(self, width: int, memory: int = 25):
        super().__init__(width)
        self.memory = options.count("memory", memory)

    def start(self) -> dict[str, Tensor]:
        zero = torch.zeros(self.width)
        return {"count": zero, "mean": zero}

    def inputs(self, x: Tensor) -> dict[str, Tensor]:
        return {"x": x}

    def step(self, count: Tensor, mean: Tensor, x: Tensor):
        count = count + 1
        mean = mean + (x - mean) / torch.clamp(count, 1.0, self.memory)
        return (count, mean), torch.stack([mean, x - mean])

    def outputs(self, y: Tensor, x: Tensor) -> Tensor:  # noqa: ARG002
        return y.transpose(2, 3).flatten(2)
