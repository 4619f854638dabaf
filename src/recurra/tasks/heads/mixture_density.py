"""A point of the plane from a mixture of bells, and whether the pen is lifted."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from recurra import options
from recurra.tasks.heads.head import NOTHING, Around, Head
from recurra.tasks.heads.normal import spread


class MixtureDensity(Head):
    """p(x, y, pen) = sum_k w_k N((x, y); m_k, s_k, r_k) * Bernoulli(pen), raw [..., 6 mixtures + 1], target [..., 3].

    w = softmax, s = softplus, r = tanh of their raw numbers; the last raw number is the pen's. A target of which a
    number is NaN is missing.

    Source: Generating Sequences With Recurrent Neural Networks, Graves, 2013, arXiv:1308.0850, equations 15 to 26.
    """

    def __init__(self, mixtures: int = 20):
        super().__init__()
        self.mixtures = options.count("mixtures", mixtures)
        self.size = 6 * mixtures + 1

    def there(self, target: Tensor) -> Tensor:
        return ~target.isnan().any(-1)

    def surprise(self, raw: Tensor, target: Tensor, around: Around = NOTHING) -> Tensor:
        there = self.there(target)
        found = self._surprise(raw, torch.where(there[..., None], target, 0), around)
        return torch.where(there, found, 0)

    @property
    def embedded(self) -> int:
        return 4

    def embed(self, value: Tensor, around: Around = NOTHING) -> Tensor:  # noqa: ARG002
        """[..., 4]: a point [..., 3] as it is, zeros beside a flag where it is missing."""
        there = self.there(value)[..., None]
        return torch.cat([torch.where(there, value, 0), (~there).to(value.dtype)], -1)

    def biased(self, raw: Tensor, bias: float) -> Tensor:
        """Raw numbers whose draws are the neater the larger the bias: widths smaller by e^bias, likely bells likelier.

        Source: equations 61 and 62 of the same.
        """
        each = raw[..., :-1].unflatten(-1, (self.mixtures, 6))
        weight, mean, width, rest = each.split([1, 2, 2, 1], -1)
        less = (nn.functional.softplus(width) * math.exp(-bias)).clamp(min=1e-12)
        width = less + torch.log(-torch.expm1(-less))  # the inverse of softplus
        each = torch.cat([weight * (1 + bias), mean, width, rest], -1)
        return torch.cat([each.flatten(-2), raw[..., -1:]], -1)

    def _parts(self, raw: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Weights [..., K] as logarithms, means and widths [..., K, 2], correlations [..., K], the pen's odds [...]."""
        each = raw[..., :-1].unflatten(-1, (self.mixtures, 6))
        correlation = 0.999 * each[..., 5].tanh()
        return each[..., 0].log_softmax(-1), each[..., 1:3], spread(each[..., 3:5]), correlation, raw[..., -1]

    def _surprise(self, raw: Tensor, target: Tensor, around: Around) -> Tensor:  # noqa: ARG002
        log_weight, mean, width, r, pen = self._parts(raw)
        z, w = ((target[..., None, :2] - mean) / width).unbind(-1)
        rest = 1 - r.square()
        square = (z.square() + w.square() - 2 * r * z * w) / rest
        log_density = -0.5 * square - math.log(2 * math.pi) - width.log().sum(-1) - 0.5 * rest.log()
        lifted = nn.functional.softplus(pen) - target[..., 2] * pen
        return lifted - (log_weight + log_density).logsumexp(-1)

    def predict(self, raw: Tensor, around: Around = NOTHING) -> Tensor:  # noqa: ARG002
        """[..., 3]: the mean point, and 1 if the pen is rather lifted."""
        log_weight, mean, _, _, pen = self._parts(raw)
        point = (log_weight.exp()[..., None] * mean).sum(-2)
        return torch.cat([point, (pen > 0).to(raw.dtype)[..., None]], -1)

    def sample(
        self,
        raw: Tensor,
        count: int = 1,
        around: Around = NOTHING,  # noqa: ARG002
        generator: torch.Generator | None = None,
    ) -> Tensor:
        raw = raw.expand(count, *raw.shape)
        log_weight, mean, width, r, pen = self._parts(raw)
        chances = log_weight.exp().reshape(-1, self.mixtures)
        chosen = torch.multinomial(chances, 1, generator=generator).view(*raw.shape[:-1], 1)
        r, (mean, width) = r.gather(-1, chosen)[..., 0], (
            t.gather(-2, chosen[..., None].expand(*chosen.shape, 2))[..., 0, :] for t in (mean, width)
        )  # fmt: skip
        z, w = torch.randn(2, *r.shape, dtype=raw.dtype, device=raw.device, generator=generator)
        point = mean + width * torch.stack([z, r * z + (1 - r.square()).sqrt() * w], -1)
        lifted = torch.bernoulli(pen.sigmoid(), generator=generator)
        return torch.cat([point, lifted[..., None]], -1)
