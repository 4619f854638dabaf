"""A number between its quantiles, whatever its distribution."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from recurra import options
from recurra.errors import InputError
from recurra.tasks.heads.head import NOTHING, Around, Head, checked

LEVELS = (0.025, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.975)


class Quantile(Head):
    """The quantiles of some levels, mean + deviation sort(raw), straight lines between them.

    The loss is no likelihood but the pinball loss of all levels, twice their mean, in units of the deviation.

    Args:
        levels: rising probabilities between 0 and 1.
    """

    def __init__(self, levels: Sequence[float] = LEVELS):
        super().__init__()
        found = [options.number("levels", level, 0, 1) for level in levels]
        if not found or not found[0] > 0 or any(b <= a for a, b in pairwise(found)):
            raise InputError(f"levels is {options.shown(levels)}; expected rising probabilities between 0 and 1")
        self.levels, self.size = tuple(found), len(found)

    def _surprise(self, raw: Tensor, target: Tensor, around: Around) -> Tensor:
        levels = checked(self.levels, raw)
        off = around.apart(target)[..., None] - raw.sort(-1).values
        return 2 * torch.maximum(levels * off, (levels - 1) * off).mean(-1)

    def predict(self, raw: Tensor, around: Around = NOTHING) -> Tensor:
        """[...]: the median."""
        middle = min(max(0.5, self.levels[0]), self.levels[-1])
        return self.quantile(raw, [middle], around)[..., 0]

    def sample(
        self, raw: Tensor, count: int = 1, around: Around = NOTHING, generator: torch.Generator | None = None
    ) -> Tensor:
        """[count, ...]: draws, none beyond the outermost quantiles."""
        u = torch.rand(count, *raw.shape[:-1], 1, dtype=raw.dtype, device=raw.device, generator=generator)
        return around.back(self._between(raw.sort(-1).values.expand(count, *raw.shape), u)[..., 0])

    def quantile(self, raw: Tensor, levels: Sequence[float], around: Around = NOTHING) -> Tensor:
        wanted = checked(levels, raw)
        low, high = self.levels[0], self.levels[-1]
        if beyond := [level for level in levels if not low <= level <= high]:
            raise InputError(f"levels holds {beyond[0]}; this head was trained on {low} to {high}: train it on more")
        wanted = wanted.expand(*raw.shape[:-1], len(wanted))
        return around.over(1).back(self._between(raw.sort(-1).values, wanted))

    def _between(self, values: Tensor, wanted: Tensor) -> Tensor:
        """[..., wanted]: on straight lines between values [..., levels]."""
        levels = checked(self.levels, values)
        if len(levels) == 1:
            return values.expand(wanted.shape)
        right = torch.searchsorted(levels, wanted.contiguous()).clamp(1, len(levels) - 1)
        a, b = levels[right - 1], levels[right]
        share = ((wanted - a) / (b - a)).clamp(0, 1)
        return torch.lerp(values.gather(-1, right - 1), values.gather(-1, right), share)
