"""One row, a mapping from names to values, as the numbers that a model reads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recurra.data.sequences import Field
from recurra.data.tables import absent, number
from recurra.data.times import Frequency, second, seconds, text
from recurra.errors import InputError
from recurra.options import shown
from recurra.tasks.inlet import Encoding, channels
from recurra.tasks.model import Model

AT_ONCE = 64
"""Rows to come whose dates are looked up together."""


class OneRow:
    """Reads rows of some fields for a model.

    Args:
        known: encodes what was known of a row before it came, behind what the inlet reads.
        frequency: of the rows to come, most likely.
    """

    def __init__(self, model: Model, fields: Sequence[Field], known: Encoding | None, frequency: Frequency):
        self._series, self._like = model.inlet.series, model.inlet.mean
        self._encodings = [model.inlet.encoding] + ([] if known is None else [known])
        reads = {*model.inlet.reads, *(() if known is None else known.reads)}
        self.time = next((field for field in fields if field.role == "time"), None)
        self._fields = [field for field in fields if field.name in reads and field is not self.time]
        self._names = [field.name for field in (self.time, *self._fields) if field is not None]
        self._frequency = frequency
        self._calendars: dict[float, list[list[float]]] = {}

    def moment(self, row: Mapping[str, Any]) -> float:
        """The time of a row. Raises InputError if it is none."""
        assert self.time is not None
        name, dated = self.time.name, self.time.dated
        value = given(self.time, row, self._names)
        found = second(value, dated)
        if found is not None:
            return found
        moments, are_dates = seconds(np.array([value]), name, lambda _: "row")  # says what is wrong with it
        if are_dates != dated:
            raise InputError(f"row, {name!r} is {shown(value)}; expected {'a date' if dated else 'a number'}")
        return float(moments[0])

    def later(self, row: Mapping[str, Any], end: float) -> float:
        """The time of a row behind another. Raises InputError if it is none, or not later than `end`."""
        assert self.time is not None
        now, dated = self.moment(row), self.time.dated
        if not now > end:
            raise InputError(f"row is at {text(now, dated)}; expected a time after {text(end, dated)}")
        return now

    def read(self, row: Mapping[str, Any], now: float) -> tuple[Tensor, list[float]]:
        """What `Rowwise.step` takes, [1, size], of a row at a time, and the numbers of the series in it.

        Raises InputError if a value is missing or of the wrong kind.
        """
        return self._joined({field.name: self._value(field, row) for field in self._fields}, now)

    def absent(self, row: Mapping[str, Any], now: float) -> Tensor:
        """As `read`, of a row that is absent in front of another: all is missing but what is the same for a series."""
        blank = {f.name: (nothing(f), row.get(f.name))[f.whole] for f in self._fields}
        return self._joined({field.name: self._value(field, blank) for field in self._fields}, now)[0]

    def _joined(self, values: Mapping[str, Any], now: float) -> tuple[Tensor, list[float]]:
        series = _numbers(self._series, values)
        parts, plain = [], list(series)
        for which, encoding in enumerate(self._encodings):
            plain += _numbers(encoding.numbers, values)
            if encoding.of_time is not None:
                plain += self._calendar(now)[which]
            if encoding.categories or encoding.texts:
                names = encoding.names(values, torch.Size((1,)))
                parts += [self._like.new_tensor([plain]), names]
                plain = []
        parts.append(self._like.new_tensor([plain]))
        return parts[0] if len(parts) == 1 else torch.cat(parts, -1), series

    def _calendar(self, now: float) -> list[list[float]]:
        """What the calendar of each encoding says of a time; looked up for the rows to come as well."""
        if now not in self._calendars:
            times = [now, *(self._frequency.after(now, step) for step in range(1, AT_ONCE))]
            found = [_calendar(encoding, times) for encoding in self._encodings]
            self._calendars = dict(zip(times, map(list, zip(*found, strict=True)), strict=True))
        return self._calendars[now]

    def _value(self, field: Field, row: Mapping[str, Any]) -> Any:
        return value_of(field, row, self._names)


def value_of(field: Field, row: Any, expected: Iterable[str]) -> Any:
    """What a row says of a column: [channels] numbers, NaN where one is missing; codes of a category [1], of a text
    [1, letters].

    Raises InputError if the row lacks it, or it is of the wrong kind.
    """
    value = given(field, row, expected)
    if field.vocabulary is not None:
        if field.kind == "text":
            return field.vocabulary.encode([] if absent(value) else list(str(value)))[None]
        return field.vocabulary.encode([None if absent(value) else str(value)])
    values = [value] if not field.width else list(value) if np.ndim(value) == 1 else []
    found = [torch.nan if absent(each) else number(each) for each in values]
    what = f"{channels(field)} numbers, or NaN" if field.width else "a number, or NaN"
    if len(found) != channels(field):
        told = f"has {len(found)} channels" if found else f"is {shown(value)}"
        raise InputError(f"row, {field.name!r} {told}; expected {what}")
    for each, came in zip(found, values, strict=True):
        if each is None or each in (np.inf, -np.inf):
            raise InputError(f"row, {field.name!r} is {shown(came)}; expected {what}")
    return found


def given(field: Field, row: Any, expected: Iterable[str]) -> Any:
    """What a row has in a column. Raises InputError if it has none."""
    if not isinstance(row, Mapping) or field.name not in row:
        raise InputError(f"row has no {field.name!r}; expected {', '.join(map(repr, sorted(expected)))}")
    return row[field.name]


def nothing(field: Field) -> Any:
    """What stands for a value that is missing."""
    return (torch.nan,) * channels(field) if field.width else None


def _numbers(fields: Sequence[Field], values: Mapping[str, Any]) -> list[float]:
    return [number for field in fields for number in values[field.name]]


def _calendar(encoding: Encoding, times: list[float]) -> list[list[float]]:
    if encoding.calendar is None or encoding.of_time is None:
        return [[] for _ in times]
    return encoding.calendar(torch.tensor(times, dtype=torch.float64)).tolist()
