"""Counts that spread more than they should."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from recurra.errors import InputError
from recurra.tasks.heads.head import NOTHING, Around, Head, checked
from recurra.tasks.heads.normal import spread

MOST = 2**22
"""No quantile is looked for among larger counts."""


class NegativeBinomial(Head):
    """Counts y = 0, 1, 2 ... with mean m and variance m + a m^2; m = softplus(raw_1) (|mean| + deviation),
    a = softplus(raw_2).

    Source: the likelihood for counts of "DeepAR", Salinas, Flunkert, Gasthaus, 2017, arXiv:1704.04110.
    """

    size = 2

    def _moments(self, raw: Tensor, around: Around) -> tuple[Tensor, Tensor]:
        """The mean, and 1 / a."""
        level = 1.0 if around.deviation is None else around.deviation
        level = level if around.mean is None else level + around.mean.abs()
        return spread(raw[..., 0]) * level, 1 / spread(raw[..., 1])

    def _surprise(self, raw: Tensor, target: Tensor, around: Around) -> Tensor:
        mean, r = self._moments(raw, around)
        return _surprise(target, mean, r)

    def predict(self, raw: Tensor, around: Around = NOTHING) -> Tensor:
        """[...]: the mean."""
        return self._moments(raw, around)[0]

    def sample(
        self, raw: Tensor, count: int = 1, around: Around = NOTHING, generator: torch.Generator | None = None
    ) -> Tensor:
        mean, r = self._moments(raw, around)
        r = r.expand(count, *mean.shape)
        return torch.poisson(torch._standard_gamma(r, generator=generator) * mean / r, generator=generator)

    @torch.no_grad()
    def quantile(self, raw: Tensor, levels: Sequence[float], around: Around = NOTHING) -> Tensor:
        """[..., levels]: the smallest count at or below which the target falls with at least these probabilities."""
        mean, r = torch.broadcast_tensors(*(t.double() for t in self._moments(raw, around)))
        wanted = checked(levels, raw).double()
        each = [_quantiles(*pair, wanted) for pair in zip(mean.flatten(), r.flatten(), strict=True)]
        found = torch.stack(each) if each else wanted.new_empty(0, len(wanted))
        return found.view(*mean.shape, len(wanted)).to(raw.dtype)


def _quantiles(mean: Tensor, r: Tensor, wanted: Tensor) -> Tensor:
    """Of one distribution, [levels]: its counts are summed up until they have passed the highest."""
    highest = 256
    while highest <= MOST and float(mean) < MOST:
        counts = torch.arange(highest, dtype=torch.float64, device=mean.device)
        below = torch.exp(-_surprise(counts, mean, r)).cumsum(0)
        if below[-1] >= wanted.max():
            return (below < wanted[:, None]).sum(1).double()
        highest *= 4
    raise InputError(f"levels reach beyond counts of {MOST}; use a head of numbers, such as 'student-t'")


def _surprise(y: Tensor, mean: Tensor, r: Tensor) -> Tensor:
    ways = torch.lgamma(y + r) - torch.lgamma(r) - torch.lgamma(y + 1)
    return -(ways - r * nn.functional.softplus((mean / r).log()) - y * nn.functional.softplus((r / mean).log()))
