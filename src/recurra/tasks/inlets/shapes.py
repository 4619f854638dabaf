"""How often each of many random shapes was seen in a series: what speaks where there are few cases to learn from."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from recurra import options
from recurra.nn.linear import linear
from recurra.pointwise import Dropout
from recurra.problem import Lane, cast, compute_dtype
from recurra.tasks.pools import Mean
from recurra.windows import Past

TAPS, HIGH = 9, 3
"""Numbers in a shape, and how many of them are high."""
DILATIONS = 8
"""At most so many distances between the numbers of a shape, from 1 up to what fits into the span."""
LOW, SOFT = 0.05, 0.02
"""Shares of all responses: thresholds have at least so many on either side, and one goes from not seen to seen within
the nearest of them."""
NARROW = 1e-3
"""Deviations of a response within which it does so at least, so that rounding decides nothing."""
SAMPLE = 4096
"""Responses from which thresholds are taken, about."""
LEAST = 0.01
"""Shares that spread by less are not blown up any further."""

Batches = Callable[[], Iterable[tuple[Tensor, Tensor]]]
"""Gives series [B, T, D] and their lengths [B], again whenever it is called."""


class Shapes(Mean):
    """x [B, T, D] to y [B, T, count]: at which share of the steps so far each shape was seen, in deviations from its
    mean over the data fitted on.

    r_t = sum_i sum_c w_i m_c x_{t - i d, c},  s_t = clamp((r_t - b) / a, 0, 1),  y_t = (mean(s_1 .. s_t) - mu) / sigma
    over the `TAPS` numbers of a shape, three of which are 2 and all others -1, and some of the channels, m. Shapes,
    their distances d and their channels are drawn, thresholds b are quantiles of r over the data; none is trained.
    Lane: a shape.

    Args:
        width: channels of x.
        count: of shapes.
        span: steps in which a shape has room.
        dropout: of y, while training.

    Source: MiniRocket: A Very Fast (Almost) Deterministic Transform for Time Series Classification, Dempster, Schmidt,
    Webb, 2020, arXiv:2012.08791. Departures: a shape lies in the past of its step, and what is as good as on the
    threshold is seen by half, so that no rounding decides it.
    """

    lane = Lane.HEAD

    def __init__(self, width: int, count: int, span: int, dropout: float = 0.0):
        super().__init__(width)
        self.count, self.dropout = options.count("count", count), Dropout(dropout)
        reach = max(1, (options.count("span", span) - 1) // (TAPS - 1))
        steps = torch.linspace(0, math.log2(reach), min(DILATIONS, count)).exp2().round()
        self.dilations: list[int] = [int(step) for step in steps.unique()]
        self.windows = {f"past{step}": (width, (TAPS - 1) * step) for step in self.dilations}
        taps = torch.full((count, TAPS), -1.0).scatter(1, torch.rand(count, TAPS).argsort(1)[:, :HIGH], 2.0)
        some = (torch.rand(count, 1) * math.log2(width + 1)).exp2().long().clamp(max=width)
        chosen = torch.rand(count, width).argsort(1).argsort(1) < some
        self.weight: Tensor
        self.register_buffer("weight", (taps[:, :, None] * chosen[:, None]).flatten(1))
        self.usual: Tensor
        self.spread: Tensor
        for name, value in {"threshold": 0.0, "room": 1.0, "usual": 0.0, "spread": 1.0}.items():
            self.register_buffer(name, torch.full((count,), value))

    def start(self) -> dict[str, Tensor]:
        zero = torch.zeros(self.count)
        return {"count": zero, "mean": zero}

    def inputs(self, x: Tensor, past: Past) -> dict[str, Tensor]:
        return {"x": ((self._responses(x, past) - self.threshold) / self.room + 0.5).clamp(0, 1)}

    def outputs(self, y: Tensor, x: Tensor) -> Tensor:  # noqa: ARG002
        return self.dropout((y - self.usual) / self.spread)

    def _responses(self, x: Tensor, past: Past) -> Tensor:
        """r, [B, T, count]."""
        x = cast(x, compute_dtype(x.dtype))
        dealt = self.weight.tensor_split(len(self.dilations))
        return torch.cat(
            [
                linear(torch.cat(past.lags(f"past{step}", x, step), -1), weight)
                for step, weight in zip(self.dilations, dealt, strict=True)
            ],
            -1,
        )

    @torch.no_grad()
    def fit(self, batches: Batches) -> None:
        """Learn thresholds, and how often shapes are seen in whole series."""
        steps = sum(int(lengths.sum()) for _, lengths in batches())
        found = []
        for x, lengths in batches():
            there = torch.arange(x.shape[1]) < lengths[:, None]
            chosen = there & (torch.rand(there.shape) * steps < SAMPLE)
            past = Past(self.windows, self.initial_state(len(x), x), None, None)
            found.append(self._responses(x, past)[chosen])
        responses = torch.cat(found).sort(0).values
        if not len(responses):
            return
        level = LOW + (1 - 2 * LOW) * torch.rand(self.count)
        low, self.threshold, high = (
            responses.gather(0, (share * (len(responses) - 1)).round().long()[None])[0]
            for share in (level - SOFT, level, level + SOFT)
        )
        deviation = responses.std(0, correction=0)
        self.room = (high - low).maximum(NARROW * torch.where(deviation > 0, deviation, 1))
        self.usual, self.spread = torch.zeros_like(self.usual), torch.ones_like(self.spread)
        share = self.at_ends(batches())
        self.usual, self.spread = share.mean(0), share.std(0, correction=0).clamp(min=LEAST)

    @torch.no_grad()
    def at_ends(self, series: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
        """How often shapes are in whole series, [cases, count]; they come as [B, T, D] with their lengths [B]."""
        learning = self.training
        found = [self.eval()(x, lengths=lengths)[0][torch.arange(len(x)), lengths - 1] for x, lengths in series]
        self.train(learning)
        return torch.cat(found)
