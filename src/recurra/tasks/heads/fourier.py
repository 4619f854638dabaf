"""A number whose density is a sum of waves, of any shape and as smooth as their number allows."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from recurra import options
from recurra.tasks.heads.head import NOTHING, Around, Head, checked

LEAST = 1e-3
"""This share is dealt to all places alike: none is impossible."""


class Fourier(Head):
    """The density of z in (-1, 1) is 1/2 + Re sum_k c_k e^{i k pi z} / c_0, c_k = sum_l conj(a_l) a_{l+k}, k = 1 to
    `waves`: that is a square, |sum_l a_l e^{i l pi z}|^2, and so never negative. raw are the a_l, real and imaginary.

    Numbers y are brought there by z = 2/pi atan(x), x = (y - mean) / deviation, so that none is out of reach.

    Source: Fourier Head, Gillman, Aggarwal, Freeman, Sun, Singh, 2024, arXiv:2410.22269. Departures: the arc tangent,
    where the paper's numbers are bounded; the density itself is learned, not that of bins.
    """

    def __init__(self, waves: int = 12):
        super().__init__()
        self.waves = options.count("waves", waves)
        self.size = 2 * (waves + 1)

    def _waves(self, raw: Tensor) -> Tensor:
        """c_k / c_0, [..., waves], complex."""
        a = torch.view_as_complex(raw.unflatten(-1, (self.waves + 1, 2)).contiguous())
        # A constant wave beside what is said: raw numbers of zero are no density otherwise, but the flat one.
        a = torch.cat([a[..., :1] + 1, a[..., 1:]], -1)
        c = [(a[..., : self.waves + 1 - k].conj() * a[..., k:]).sum(-1) for k in range(self.waves + 1)]
        power = c[0].real.clamp(min=torch.finfo(raw.dtype).tiny)
        return torch.stack(c[1:], -1) / power[..., None]

    def _density(self, waves: Tensor, z: Tensor) -> Tensor:
        """Of z [...]."""
        turns = math.pi * z[..., None] * torch.arange(1, self.waves + 1, dtype=z.dtype, device=z.device)
        sum_ = (waves.real * turns.cos() - waves.imag * turns.sin()).sum(-1)
        return (1 - LEAST) * (0.5 + sum_).clamp(min=0) + LEAST / 2

    def _below(self, waves: Tensor, z: Tensor) -> Tensor:
        """The chance of less than z [...]."""
        k = math.pi * torch.arange(1, self.waves + 1, dtype=z.dtype, device=z.device)
        turns, sign = (
            k * z[..., None],
            torch.where(torch.arange(1, self.waves + 1, device=z.device) % 2 == 0, 1.0, -1.0),
        )
        sum_ = ((waves.real * turns.sin() + waves.imag * (turns.cos() - sign)) / k).sum(-1)
        return (1 - LEAST) * ((z + 1) / 2 + sum_) + LEAST * (z + 1) / 2

    def _surprise(self, raw: Tensor, target: Tensor, around: Around) -> Tensor:
        x = around.apart(target)
        density = self._density(self._waves(raw), 2 / math.pi * x.atan())
        return -density.log() - math.log(2 / math.pi) + torch.log1p(x.square()) + around.log_deviation

    @torch.no_grad()
    def _at(self, raw: Tensor, wanted: Tensor) -> Tensor:
        """The x below which there are `wanted` [..., n] of raw [..., size]: z is halved in on, in double."""
        waves, wanted = self._waves(raw.double())[..., None, :], wanted.double()
        low, high = -torch.ones_like(wanted), torch.ones_like(wanted)
        for _ in range(50):
            middle = (low + high) / 2
            less = self._below(waves, middle) < wanted
            low, high = torch.where(less, middle, low), torch.where(less, high, middle)
        return (math.pi / 2 * (low + high) / 2).tan().to(raw.dtype)

    def predict(self, raw: Tensor, around: Around = NOTHING) -> Tensor:
        """[...]: the median; there is no mean."""
        return self.quantile(raw, [0.5], around)[..., 0]

    def sample(
        self, raw: Tensor, count: int = 1, around: Around = NOTHING, generator: torch.Generator | None = None
    ) -> Tensor:
        u = torch.rand(*raw.shape[:-1], count, dtype=raw.dtype, device=raw.device, generator=generator)
        return around.back(self._at(raw, u).movedim(-1, 0))

    def quantile(self, raw: Tensor, levels: Sequence[float], around: Around = NOTHING) -> Tensor:
        wanted = checked(levels, raw).expand(*raw.shape[:-1], len(levels))
        return around.over(1).back(self._at(raw, wanted))
