"""A number with a bell around it that forgives what lies far out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn

from recurra.tasks.heads.head import NOTHING, Around, Head, checked
from recurra.tasks.heads.normal import spread

PLACES = 16
"""Degrees of freedom at which quantiles are found by halving."""


class StudentT(Head):
    """y = mean + deviation (a + b z), z of Student's t with n degrees of freedom; a, b, n = raw_1, softplus(raw_2),
    2 + softplus(raw_3), so that there is a variance."""

    size = 3

    def _surprise(self, raw: Tensor, target: Tensor, around: Around) -> Tensor:
        # As few operations as can be: of a row of a stream each takes as long as its arithmetic many times over.
        at, width, n = raw.unbind(-1)
        width, n = spread(width), 2 + nn.functional.softplus(n)
        z, half = (around.apart(target) - at) / width, n / 2
        more = half + 0.5
        norm = torch.lgamma(half) - torch.lgamma(more) + (n.sqrt() * width).log() + 0.5 * math.log(math.pi)
        return torch.addcmul(norm, more, torch.log1p(z.square() / n)) + around.log_deviation

    def predict(self, raw: Tensor, around: Around = NOTHING) -> Tensor:
        return around.back(raw[..., 0])

    def sample(
        self, raw: Tensor, count: int = 1, around: Around = NOTHING, generator: torch.Generator | None = None
    ) -> Tensor:
        n = _freedom(raw).expand(count, *raw.shape[:-1])
        normal = torch.randn(n.shape, dtype=raw.dtype, device=raw.device, generator=generator)
        chi_squared = 2 * torch._standard_gamma(n / 2, generator=generator)
        return around.back(raw[..., 0] + spread(raw[..., 1]) * normal * (n / chi_squared).sqrt())

    def quantile(self, raw: Tensor, levels: Sequence[float], around: Around = NOTHING) -> Tensor:
        z = quantiles(_freedom(raw), checked(levels, raw))
        return around.over(1).back(raw[..., :1] + spread(raw[..., 1:2]) * z)


def _freedom(raw: Tensor) -> Tensor:
    return 2 + nn.functional.softplus(raw[..., 2])


@torch.no_grad()
def quantiles(n: Tensor, levels: Tensor) -> Tensor:
    """Of Student's t with n degrees of freedom, 2 or more, [...] and levels [L], in their dtype: [..., L].

    The logarithm of each is smooth in 1 / n, from 1 / 2 to that of the normal distribution at 0: a polynomial through a
    few exact ones gives all others.
    """
    waves = (4 / n.double() - 1).clamp(-1, 1).arccos()[..., None] * torch.arange(PLACES, device=n.device)
    series = _series(tuple(levels.tolist())).to(n.device)
    return ((waves.cos() @ series).exp() * (levels - 0.5).sign()).to(levels.dtype)


@lru_cache(maxsize=64)
def _series(levels: tuple[float, ...]) -> Tensor:
    """[PLACES, L]: in Chebyshev's polynomials of 4 / n - 1, the logarithm of how far out each level is."""
    angles = math.pi * (torch.arange(PLACES, dtype=torch.float64) + 0.5) / PLACES
    away = (torch.tensor(levels, dtype=torch.float64) - 0.5).abs()
    waves = (angles[:, None] * torch.arange(PLACES)).cos() * torch.tensor([1.0] + [2.0] * (PLACES - 1)) / PLACES
    return waves.T @ _far(4 / (1 + angles.cos())[:, None], away).log().clamp(min=math.log(1e-300))


def _far(n: Tensor, wanted: Tensor) -> Tensor:
    """Where Student's t with n degrees of freedom has so much between it and 0.

    With z = sqrt(n) tan(u) the density of u is cos(u)^(n-1), over a range that is finite: it is integrated by Gauss and
    Legendre's rule, and the u of each level is halved in on.
    """
    n, wanted = torch.broadcast_tensors(n, wanted)
    places, weights = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(64))
    scale = torch.exp(torch.lgamma((n + 1) / 2) - torch.lgamma(n / 2)) / math.sqrt(math.pi)
    low, high = torch.zeros_like(n), torch.full_like(n, math.pi / 2)
    for _ in range(60):
        u = (low + high) / 2
        at = u[..., None] / 2 * (places + 1)
        mass = scale * u / 2 * (weights * at.cos().pow(n[..., None] - 1)).sum(-1)
        low, high = torch.where(mass < wanted, u, low), torch.where(mass < wanted, high, u)
    return n.sqrt() * ((low + high) / 2).tan()
