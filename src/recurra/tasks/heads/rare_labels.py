"""Several labels at once, some of which are rare."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from recurra import options
from recurra.errors import InputError
from recurra.tasks.heads.binary import Binary
from recurra.tasks.heads.head import NOTHING, Around


class RareLabels(Binary):
    """`Binary` for labels of which some are rare: in the loss, a yes to label l has to be certain by a margin of
    strength / n_l^(1/4) more. raw [..., labels, 1], targets [..., labels].

    Source: the label-distribution-aware margins of Learning Imbalanced Datasets with Label-Distribution-Aware Margin
    Loss, Cao, Wei, Gaidon, Arechiga, Ma, 2019, arXiv:1906.07413, for many labels at once as in TransICD.

    Args:
        counts: how often each label is a yes.
        strength: of the margin of a label that is there once.
    """

    margins: Tensor

    def __init__(self, counts: Sequence[float], strength: float = 3.0):
        super().__init__()
        options.number("strength", strength, 0)
        if not len(counts) or min(counts) < 0:
            raise InputError(f"counts is {options.shown(counts)}; expected a number for each label, none negative")
        self.register_buffer("margins", torch.tensor([strength / max(1.0, float(n)) ** 0.25 for n in counts]))

    def loss(self, raw: Tensor, target: Tensor, weight: Tensor | None = None, around: Around = NOTHING) -> Tensor:
        held_back = raw - (self.margins * (target == 1)).unsqueeze(-1)
        return super().loss(held_back, target, weight, around)
