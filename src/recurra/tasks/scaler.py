"""Where numbers lie and how far they spread, known from those so far only."""

from __future__ import annotations

import torch
from torch import Tensor

from recurra import options
from recurra.problem import Lane
from recurra.recurrence import Recurrence


class Scaler(Recurrence):
    """The running mean and deviation of every channel: x [B, T, D] to y [B, T, 2 D], all means, then all deviations.

    n_t = n_{t-1} + 1,  m_t = m_{t-1} + (x_t - m_{t-1}) / n_t,
    v_t = v_{t-1} + ((x_t - m_{t-1})(x_t - m_t) - v_{t-1}) / n_t

    Lane: channel. With a `memory`, the divisor grows up to that and no further: steps long ago are forgotten. What is
    NaN is missing: the state stands still. A deviation is positive: sqrt(v_t + (m_t / n_t)^2), so that the first few
    steps, whose spread says little, are not blown up; at least a millionth of |m_t|; 1 where all is zero. Both follow
    the units of x: those of a x are a times those of x.

    Source: the updates are those of "Note on a Method for Calculating Corrected Sums of Squares and Products", Welford,
    1962, divided by n.
    """

    lane = Lane.CHANNEL

    def __init__(self, width: int, memory: int | None = None):
        super().__init__(width)
        self.memory = None if memory is None else options.count("memory", memory)

    def start(self) -> dict[str, Tensor]:
        zero = torch.zeros(self.width)
        return {"count": zero, "mean": zero, "variance": zero}

    def inputs(self, x: Tensor) -> dict[str, Tensor]:
        there = ~x.isnan()
        return {"x": torch.where(there, x, 0), "there": there.to(x.dtype)}

    def step(self, count: Tensor, mean: Tensor, variance: Tensor, x: Tensor, there: Tensor):
        more = count + there
        share = there / torch.clamp(more, 1.0, self.memory)
        off = x - mean
        new_mean = mean + share * off
        new_variance = variance + share * (off * (x - new_mean) - variance)
        first = torch.where(more == 0, 0.0, new_mean / torch.where(more == 0, 1.0, more))
        least = 1e-6 * torch.abs(new_mean)
        spread = torch.maximum(torch.sqrt(new_variance + first * first), least)
        return (more, new_mean, new_variance), torch.stack([new_mean, torch.where(spread == 0, 1.0, spread)])

    def outputs(self, y: Tensor, x: Tensor) -> Tensor:  # noqa: ARG002
        return y.transpose(2, 3).flatten(2)
