"""Forecasts from where a model stands: directly as far as it was fitted to, in a closed loop beyond that."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from recurra.data.sequences import Field
from recurra.errors import InputError
from recurra.state import State
from recurra.tasks import horizon
from recurra.tasks.answers import bounds, described
from recurra.tasks.conformal import Conformal
from recurra.tasks.model import Model
from recurra.tasks.passing import read_of
from recurra.tasks.rollout import rollout

PATHS = 200
"""Drawn for quantiles of steps that no head says anything of."""


@dataclass(frozen=True)
class Onward:
    """The `steps` that follow a place of S series.

    Args:
        known, static: as in `rollout`.
        conformal: corrects what the head says of its quantiles.
    """

    model: Model
    place: State
    fields: Sequence[Field]
    steps: int
    known: Mapping[str, Tensor]
    static: Mapping[str, Tensor]
    conformal: Conformal | None = None

    def table(self, names: Sequence[str], level: Iterable[float], quantiles: Iterable[float], samples: int) -> Any:
        """Columns of values [S, steps, targets], their quantiles and paths, as `described` has them.

        Raises InputError if one of them is out of range.
        """
        ends = bounds(level, quantiles)
        draws = self._rolled(samples) if samples else None
        return described(names, self.points(), list(ends), lambda: self.quantiles(list(ends.values())), draws)

    @property
    def _near(self) -> int:
        """Steps that the head says something of."""
        return min(self.steps, horizon.outlook(self.model).horizon)

    def points(self) -> Tensor:
        """[S, steps, targets]."""
        raw, around = self._raw()
        near = self.model.head.predict(raw, around)[:, 0]
        return near if self._near == self.steps else self._rolled(0, near)[0]

    def quantiles(self, wanted: Sequence[float]) -> Tensor:
        """[S, steps, targets, wanted]; beyond what the head says those of paths that are drawn."""
        raw, around = self._raw()
        if self.conformal is None:
            near = self.model.head.quantile(raw, wanted, around)[:, 0]
        else:
            near = self.conformal.quantiles(self.model.head.predict(raw, around)[:, 0], around, wanted)
        if self._near == self.steps:
            return near
        if self.conformal is not None:
            raise InputError(
                f"horizon is {self.steps}; conformal intervals reach no further than the {self._near} steps fitted on"
            )
        paths = self._rolled(PATHS)[:, :, self._near :]
        far = torch.quantile(paths, torch.tensor(wanted, dtype=paths.dtype), 0).movedim(0, -1)
        return torch.cat([near, far.to(near.dtype)], 1)

    def _raw(self) -> Any:
        """What the head says, [S, 1, near, targets, size], and around it."""
        read = read_of(self.place)
        known = {name: self.known[name][:, :, : self._near] for name in horizon.reads_ahead(self.model)}
        raw = horizon.raw(self.model, read, known, self._near)
        return raw, read.around(raw.shape[-2])

    def _rolled(self, samples: int, first: Tensor | None = None) -> Tensor:
        return rollout(
            self.model, self.place, self.fields, self.steps, known=self.known, static=self.static, samples=samples,
            first=first,
        )  # fmt: skip
