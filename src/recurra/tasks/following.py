"""One series that goes on row by row, at the cost of a step, without tables in between."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recurra.data.sequences import Field
from recurra.data.tables import absent, number
from recurra.data.times import seconds, text
from recurra.errors import InputError
from recurra.options import shown
from recurra.state import State
from recurra.tasks import horizon
from recurra.tasks.inlet import numbers
from recurra.tasks.model import Model, Read
from recurra.tasks.passing import placed, read_of, state_of


class Following:
    """Where a model stands in one series, and what it makes of the next row.

    Args:
        fields: of the columns.
        place: of one series.
        end: the last time that was read, minus infinity before the first.
    """

    def __init__(self, model: Model, fields: list[Field], place: State, end: float):
        self.model, self.fields, self.place, self.end = model, fields, place, end
        self._targets = [field for field in fields if field.role == "target"]
        self._reads = {*model.inlet.reads, *horizon.reads_ahead(model), *(field.name for field in self._targets)}

    @torch.no_grad()
    def update(self, row: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """What had been expected of the targets of a row, and how surprising they are, [targets] each; NaN where they
        are missing, or nothing came before.

        Raises InputError, and nothing has happened, if a value is of the wrong kind or the row is not a later one.
        """
        reads = [field for field in self.fields if field.name in self._reads]
        columns = {field.name: value_of(field, row, self._reads) for field in reads}
        end = self._later(columns)
        before = read_of(self.place)
        ahead = {name: columns[name][:, :, None] for name in horizon.reads_ahead(self.model)}
        raw, truth = horizon.raw(self.model, before, ahead, 1), numbers(self._targets, columns, 2)[:, :, None]
        around = before.around(truth.shape[-1])
        surprise = torch.where(truth.isnan(), torch.nan, self.model.head.surprise(raw, truth, around))
        expected = self.model.head.predict(raw, around)
        fresh = self.end == -np.inf
        self._go_on(columns, end)
        nothing = torch.full((truth.shape[-1],), torch.nan)
        return (nothing, nothing) if fresh else (expected[0, 0, 0], surprise[0, 0, 0])

    def _go_on(self, columns: Mapping[str, Tensor], end: float) -> None:
        read, state = self.model.read(columns, state_of(self.place))
        self.place, self.end = placed(state, Read(read.y, read.scale)), end

    def _later(self, columns: Mapping[str, Tensor]) -> float:
        """The time of a row."""
        time = next((field for field in self.fields if field.role == "time"), None)
        if time is None:
            return max(self.end, -1.0) + 1
        now = float(columns[time.name]) if time.name in columns else np.inf
        if not now > self.end:
            raise InputError(f"row is at {text(now, time.dated)}; expected a time after {text(self.end, time.dated)}")
        return now


def value_of(field: Field, row: Mapping[str, Any], expected: Iterable[str]) -> Tensor:
    """[1, 1, *width]: what a row says of a column. Raises InputError if it lacks it, or it is of the wrong kind."""
    if not isinstance(row, Mapping) or field.name not in row:
        raise InputError(f"row has no {field.name!r}; expected {', '.join(repr(name) for name in sorted(expected))}")
    value = row[field.name]
    if field.role == "time":
        found = seconds(np.array([value]), field.name, lambda _: "row")
        return torch.from_numpy(found[0])[None]
    if field.kind == "category":
        assert field.vocabulary is not None
        return field.vocabulary.encode([None if absent(value) else str(value)])[None]
    width = math.prod(field.width)
    values = [value] if not field.width else list(value) if np.ndim(value) == 1 else []
    told = [torch.nan if absent(one) else number(one) for one in values]
    if len(told) != width or any(one is None or one in (np.inf, -np.inf) for one in told):
        what = "a number" if not field.width else f"{width} numbers"
        raise InputError(f"row, {field.name!r} is {shown(value)}; expected {what}, or NaN")
    return torch.tensor(told, dtype=torch.get_default_dtype()).view(1, 1, *field.width)
