"""Intervals from errors that were made on steps which nothing was learned from, whatever the head believes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from recurra.data.sequences import Sequences
from recurra.errors import InputError
from recurra.tasks import horizon
from recurra.tasks.heads.head import Around
from recurra.tasks.model import Model
from recurra.tasks.walk import forecasts

HELD = 0.2
"""The share of each series that is kept for it, at its end."""
ROUNDED = 1e-9
"""By this a rank may be off without being another."""


@dataclass(frozen=True)
class Conformal:
    """What lay between forecasts and what came, in units of the series' deviation: a share q of new errors is below the
    ceil((n + 1) q)-th of n such, if errors go on as they were.

    Source: split conformal prediction, Papadopoulos, Proedrou, Vovk, Gammerman, 2002, of errors scaled by what is known
    beforehand, each step of the horizon by itself.
    """

    errors: Tensor
    """[horizon, targets, n], rising; NaN, behind the others, where a number was missing."""

    @classmethod
    def of(cls, model: Model, sequences: Sequences, learned: Tensor) -> Self:
        """Errors on all steps behind the first `learned` [S] of each series.

        Raises InputError if no horizon fits in there.
        """
        steps, offsets = horizon.outlook(model).horizon, sequences.offsets
        spans = zip((offsets[:-1] + learned - 1).tolist(), (offsets[1:] - steps).tolist(), strict=True)
        rows = torch.cat([torch.arange(first, max(first, last)) for first, last in spans])
        if not len(rows):
            raise InputError(
                f"conformal is True, and a fifth of no series is longer than the horizon of {steps}: use longer "
                "series, or conformal=False"
            )
        raw, read = forecasts(model, sequences, rows)
        truth = horizon.truth(model, sequences, rows)
        around = read.around(truth.shape[-1])
        off = (truth - model.head.predict(raw, around)[:, 0]) / _units(around)
        return cls(off.movedim(0, -1).sort(-1).values)

    def quantiles(self, point: Tensor, around: Around, wanted: Sequence[float]) -> Tensor:
        """[n, steps, targets, wanted] around point [n, steps, targets]; the scale is that of raw numbers [n, 1, ...].

        Raises InputError if too few errors are known for one.
        """
        errors = self.errors[: point.shape[1]]
        count = (~errors.isnan()).sum(-1, keepdim=True).double()
        found = []
        for q in wanted:
            exact = (count + 1) * q
            rank = (exact - ROUNDED).ceil() if q >= 0.5 else (exact + ROUNDED).floor()
            if ((rank < 1) | (rank > count)).any():
                need = math.ceil(1 / min(q, 1 - q)) - 1
                raise InputError(
                    f"a quantile of {q:g} needs {need} errors of each step, and {int(count.min())} are known: ask for "
                    "less extreme ones, or fit on longer series"
                )
            found.append(errors.gather(-1, rank.long() - 1)[..., 0])
        return point[..., None] + _units(around)[..., None] * torch.stack(found, -1)


def _units(around: Around) -> Tensor:
    """[n, 1, targets]: the deviations of series."""
    assert around.deviation is not None
    return around.deviation[:, 0]
