"""A number with a bell around it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from recurra.tasks.heads.head import NOTHING, Around, Head, checked

LEAST = 1e-4
"""No spread is smaller, in units of the deviation: a density may not grow without bound on a constant series."""


def spread(raw: Tensor) -> Tensor:
    """A positive width from any number."""
    return nn.functional.softplus(raw) + LEAST


class Normal(Head):
    """y = mean + deviation (a + b z), z normal; a, b = raw_1, softplus(raw_2)."""

    size = 2

    def _surprise(self, raw: Tensor, target: Tensor, around: Around) -> Tensor:
        width = spread(raw[..., 1])
        z = (around.apart(target) - raw[..., 0]) / width
        return 0.5 * z.square() + width.log() + 0.5 * math.log(2 * math.pi) + around.log_deviation

    def predict(self, raw: Tensor, around: Around = NOTHING) -> Tensor:
        return around.back(raw[..., 0])

    def sample(
        self, raw: Tensor, count: int = 1, around: Around = NOTHING, generator: torch.Generator | None = None
    ) -> Tensor:
        z = torch.randn(count, *raw.shape[:-1], dtype=raw.dtype, device=raw.device, generator=generator)
        return around.back(raw[..., 0] + spread(raw[..., 1]) * z)

    def quantile(self, raw: Tensor, levels: Sequence[float], around: Around = NOTHING) -> Tensor:
        z = torch.special.ndtri(checked(levels, raw))
        return around.over(1).back(raw[..., :1] + spread(raw[..., 1:]) * z)
