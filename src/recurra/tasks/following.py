"""One series that goes on row by row, at the cost of a step, without tables in between."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from recurra.data.sequences import Field
from recurra.data.times import Frequency, text
from recurra.errors import InputError
from recurra.state import State
from recurra.tasks import horizon
from recurra.tasks.gaps import GAP, gap_of
from recurra.tasks.heads.head import Around
from recurra.tasks.inlet import channels
from recurra.tasks.model import Model
from recurra.tasks.onerow import OneRow
from recurra.tasks.rowwise import Before, Rowwise


class Following:
    """Where a model stands in one series, and what it makes of the next row.

    Args:
        fields: of the columns.
        place: of one series.
        end: the last time that was read, minus infinity before the first.
        frequency: of the steps; rows that are absent are missing.
        gap: rows may come at any time, and how long after the one before is read with them.
    """

    def __init__(
        self, model: Model, fields: list[Field], place: State, end: float, frequency: Frequency, gap: bool = False
    ):
        self.model, self.end, self._frequency, self._gap = model, end, frequency, gap
        self._count = sum(channels(field) for field in fields if field.role == "target")
        self._row = OneRow(model, fields, horizon.outlook(model).known, frequency)
        self._steps = Rowwise(model, Before(model), place)

    @property
    def place(self) -> State:
        """Where it stands, as `recurra.tasks.passing` has it."""
        return self._steps.place

    @torch.no_grad()
    def update(self, row: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """What had been expected of the targets of a row, and how surprising they are, [targets] each; NaN where they
        are missing, or nothing came before.

        Raises InputError, and nothing has happened, if a value is of the wrong kind or the row is not a later one.
        """
        now, like, count = self._later(row), self.model.inlet.mean, self._count
        if self._gap:
            row = {**row, GAP: gap_of(self.end, now, self._frequency.seconds)}
        given, series = self._row.read(row, now)
        for time in self._passed(now):
            self._steps.step(self._row.absent(row, time))
        told = self._steps.step(given)[0]
        fresh, self.end = self.end == -math.inf, now
        if fresh:
            nothing = like.new_full((count,), torch.nan)
            return nothing, nothing
        raw, mean, deviation = told.tensor_split((-2 * len(like), -len(like)))
        around, raw = Around(mean[:count], deviation[:count]), raw.view(count, -1)
        truth, head = given[0, :count], self.model.head
        surprise = head.surprise(raw, truth, around)
        if any(map(math.isnan, series[:count])):
            surprise = torch.where(truth.isnan(), torch.nan, surprise)
        return head.predict(raw, around), surprise

    def _passed(self, now: float) -> list[float]:
        """The times of rows that are absent in front of the next one."""
        if self._gap or self._row.time is None or self.end == -math.inf:
            return []
        steps = self._frequency.between(self.end, now)
        if steps < 1 or not self._frequency.reaches(self.end, now, steps):
            dated = self._row.time.dated
            near = text(self._frequency.after(self.end, max(1, steps)), dated)
            raise InputError(f"row is at {text(now, dated)}; expected times in whole steps, such as {near}")
        return [self._frequency.after(self.end, n) for n in range(1, steps)]

    def _later(self, row: Mapping[str, Any]) -> float:
        """The time of a row."""
        if self._row.time is None:
            return max(self.end, -1.0) + 1
        return self._row.later(row, self.end)
