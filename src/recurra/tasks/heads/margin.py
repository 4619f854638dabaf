"""One of several classes, learned by margins: a target is not only to be the likeliest, but by some distance."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from recurra import options
from recurra.errors import InputError
from recurra.tasks.heads.categorical import Categorical
from recurra.tasks.heads.head import NOTHING, Around


class Hinge(Categorical):
    """The loss is max(0, 1 + max_{j != k} raw_j - raw_k); all else is as of `Categorical`.

    Source: On the Algorithmic Implementation of Multiclass Kernel-based Vector Machines, Crammer, Singer, 2001.
    """

    def loss(self, raw: Tensor, target: Tensor, weight: Tensor | None = None, around: Around = NOTHING) -> Tensor:  # noqa: ARG002
        known = target.clamp(0, self.size - 1)[..., None]
        others = raw.scatter(-1, known, -torch.inf)
        each = (1 + others.amax(-1) - raw.gather(-1, known)[..., 0]).clamp(min=0)
        return self._mean(each, target, self._counted(target, weight))


class LDAM(Categorical):
    """The loss is that of `Categorical` for raw numbers of which the target's is made smaller by a margin, which is the
    larger the fewer targets there are: largest (least / n_k)^(1/4), n_k of class k.

    Source: Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss, Cao, Wei, Gaidon, Arechiga, Ma,
    2019, arXiv:1906.07413. Departure: raw numbers are not normalised, so that none is scaled.

    Args:
        counts: how many targets of each class there are.
        largest: the margin of the class that has fewest.
        weights: as of `Categorical`.
    """

    margins: Tensor

    def __init__(self, counts: Sequence[int], largest: float = 0.5, weights: Sequence[float] | None = None):
        super().__init__(len(counts), 0.0, weights)
        options.number("largest", largest, 0)
        if wrong := [count for count in counts if options.whole("counts", int(count)) < 1]:
            raise InputError(f"counts holds {wrong[0]}; expected at least one target of each class")
        many = torch.tensor([float(count) for count in counts])
        self.register_buffer("margins", largest * (many.min() / many) ** 0.25)

    def loss(self, raw: Tensor, target: Tensor, weight: Tensor | None = None, around: Around = NOTHING) -> Tensor:
        known = target.clamp(0, self.size - 1)[..., None]
        lower = raw.scatter_add(-1, known, -self.margins.to(raw.dtype)[known])
        return super().loss(lower, target, weight, around)
