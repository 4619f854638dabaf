"""`Sequences` from long tables, one row for each time step: series, and events of users."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recurra.data.sequences import Field, Sequences
from recurra.data.tables import Table
from recurra.data.times import seconds, text
from recurra.data.vocabulary import Vocabulary
from recurra.errors import InputError
from recurra.options import shown


def from_frame(
    frame: Any,
    *,
    target: str | Sequence[str] = "y",
    id: str | None = None,
    time: str | None = None,
    known: Sequence[str] = (),
    static: Sequence[str] = (),
    past: Sequence[str] | None = None,
    categories: Sequence[str] = (),
    like: Iterable[Field] | None = None,
) -> Sequences:
    """Series from a long table: one row for each series and time.

    Args:
        frame: a `Table`, or what makes one: a data frame of pandas or polars, a table of pyarrow, a mapping.
        target: what is to be predicted, one column or several.
        id: which series a row is of; without it `unique_id`, and where that is missing all rows are one series.
        time: without it `ds`, and where that is missing rows are one step apart. Dates, texts of dates, or numbers,
            rising within each series.
        known: columns known ahead, such as holidays.
        static: columns that are the same in all rows of a series; a target among them is one label for each series.
        past: all other columns to read; None means all that are left.
        categories: columns to read as categories although they hold numbers; texts are categories without a word.
        like: the fields of other sequences, such as those a model was fitted on: the same columns, kinds and
            vocabularies are expected, and no other argument than `id`.

    Raises:
        InputError: of one line, naming file, line or row, and column: a column is missing, of the wrong kind, the same
            everywhere, empty or infinite; times are missing, come twice or fall; a static column changes; a target is
            of a name that `like` does not know; there is no row.
    """
    table = Table.of(frame)
    if not len(table):
        raise InputError(f"{table.origin or 'frame'} has no rows; expected at least one")
    id = id or ("unique_id" if "unique_id" in table else None)
    fields = None if like is None else list(like)
    if fields is None:
        time = time or ("ds" if "ds" in table else None)
        named = {"target": _listed(target), "static": _listed(static), "known": _listed(known)}
        taken = {*named["target"], *named["static"], *named["known"], id, time}
        named["past"] = [name for name in table.columns if name not in taken] if past is None else _listed(past)
        fields = [
            _field(table, name, role, name in named["static"], name in _listed(categories))
            for name, role in _roles(named).items()
        ]
        if time is not None:
            fields.insert(0, Field(time, "number", "time"))
    return _made(table, id, fields, _Maker(table, fresh=like is None))


def _listed(names: str | Sequence[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


def _roles(named: dict[str, list[str]]) -> dict[str, str]:
    """The role of each column; one may be static and the target. Raises InputError if one has two others."""
    found: dict[str, str] = {}
    for role, names in named.items():
        for name in names:
            if found.setdefault(name, role) != role and (found[name], role) != ("target", "static"):
                raise InputError(f"column {name!r} is {found[name]} and {role}; expected one of them")
    return found


def from_events(
    frame: Any,
    *,
    user: str = "user_id",
    item: str = "item_id",
    time: str | None = None,
    like: Iterable[Field] | None = None,
) -> Sequences:
    """What each user did, in the order of time; events of one time stay in the order of the table.

    The item is the target; without `time` the column `timestamp` is taken, and where that is missing rows are in order.

    Raises:
        InputError: as `from_frame`.
    """
    table = Table.of(frame)
    if not len(table):
        raise InputError(f"{table.origin or 'frame'} has no rows; expected at least one")
    time = time or ("timestamp" if "timestamp" in table else None)
    order = None
    if time is not None:
        order = np.argsort(seconds(table.column(time), time, table.where)[0], kind="stable")
    fields = None if like is None else list(like)
    if fields is None:
        fields = [] if time is None else [Field(time, "number", "time")]
        fields.append(Field(item, "category", "target", vocabulary=Vocabulary.of(table.names(item))))
    return _made(table, user, fields, _Maker(table, fresh=like is None, ties=True), order)


def _made(
    table: Table, id: str | None, fields: list[Field], maker: _Maker, order: NDArray[np.int64] | None = None
) -> Sequences:
    """All columns, each sequence in the order given, or that of the table."""
    maker.group(*_grouped(table, id, order))
    made = [maker.column(field) for field in fields]
    values = {field.name: column for field, column in made}
    return Sequences([field for field, _ in made], values, torch.from_numpy(maker.offsets), maker.ids)


def _field(table: Table, name: str, role: str, whole: bool, category: bool) -> Field:
    """The field of a column that nothing is known about yet."""
    if category or not table.is_numeric(name):
        return Field(name, "category", role, whole, vocabulary=Vocabulary.of(table.names(name)))
    return Field(name, "number", role, whole)


def _grouped(
    table: Table, id: str | None, order: NDArray[np.int64] | None
) -> tuple[NDArray[np.int64], NDArray[np.int64], list[str]]:
    """(rows [N] sequence by sequence; offsets [S + 1]; names [S]): sequences in the order in which they first come."""
    order = np.arange(len(table)) if order is None else order
    if id is None:
        return order, np.array([0, len(table)]), ["series"]
    names = table.names(id)
    if None in names:
        raise InputError(f"{table.where(names.index(None))}, column {id!r} is empty; expected the name of a series")
    ids = list(dict.fromkeys(name for name in names if name is not None))
    numbers = {name: number for number, name in enumerate(ids)}
    which = np.array([numbers[name] for name in names if name is not None])
    offsets = np.concatenate([[0], np.bincount(which, minlength=len(ids)).cumsum()])
    return order[np.argsort(which[order], kind="stable")], offsets, ids


class _Maker:
    """Columns of a table as flat columns of sequences.

    Args:
        fresh: nothing was fitted yet, so a column has to say something.
        ties: whether a sequence may have several time steps at one time.
    """

    def __init__(self, table: Table, fresh: bool, ties: bool = False) -> None:
        self.table, self.fresh, self.ties = table, fresh, ties

    def group(self, order: NDArray[np.int64], offsets: NDArray[np.int64], ids: list[str]) -> None:
        """Which rows are of which sequence, as `_grouped` says."""
        self.order, self.offsets, self.ids = order, offsets, ids

    def column(self, field: Field) -> tuple[Field, Tensor]:
        """The field, as it is found to be, and its values."""
        if field.role == "time":
            return self._times(field)
        if field.kind == "number":
            values = torch.from_numpy(self.table.numbers(field.name)[self.order])
            missing = values.isnan()
        else:
            values = self._categories(field)
            missing = values < 0
        if self.fresh:
            self._expect_news(field, values, missing)
        if field.whole:
            self._expect_static(field, values)
            values = values[torch.from_numpy(self.offsets[:-1])]
        return field, values

    def _times(self, field: Field) -> tuple[Field, Tensor]:
        name, table = field.name, self.table
        times, dated = seconds(table.column(name), name, table.where)
        if not self.fresh and dated != field.dated:
            kinds = ("numbers", "dates")
            raise InputError(
                f"column {name!r} holds {kinds[dated]}; expected {kinds[field.dated]}, as it was fitted on"
            )
        times = times[self.order]
        falls = np.diff(times) < 0 if self.ties else np.diff(times) <= 0
        falls[self.offsets[1:-1] - 1] = False
        if falls.any():
            place = int(np.flatnonzero(falls)[0]) + 1
            came, before = (text(times[n], dated) for n in (place, place - 1))
            series = self.ids[int(np.searchsorted(self.offsets, place, "right")) - 1]
            what = "comes twice" if came == before else f"comes after {before}"
            where = table.where(int(self.order[place]))
            raise InputError(f"{where}, column {name!r}: {came} {what} in series {series!r}; expected rising times")
        return Field(name, "number", "time", dated=dated), torch.from_numpy(times)

    def _categories(self, field: Field) -> Tensor:
        """Names that are not known are `unknown`, but of a target, which no model could then predict."""
        names = self.table.names(field.name)
        assert field.vocabulary is not None
        codes = field.vocabulary.encode(names)
        if field.role == "target" and (codes == field.vocabulary.unknown).any():
            row = int((codes == field.vocabulary.unknown).nonzero()[0])
            raise InputError(
                f"{self.table.where(row)}, column {field.name!r} is {names[row]!r}, which was never seen while "
                "fitting; expected a known name, or nothing"
            )
        return codes[torch.from_numpy(self.order)]

    def _expect_news(self, field: Field, values: Tensor, missing: Tensor) -> None:
        """A column that is empty, or the same in every row, says nothing."""
        there = values[~missing]
        if not len(there):
            raise InputError(f"{self._of(field)} is empty in all {len(values)} rows; expected values, or leave it out")
        if not field.whole and len(values) > 1 and (there == there[0]).all() and not missing.any():
            row = int(self.order[0])
            came = shown(self.table.column(field.name).tolist()[row])
            raise InputError(
                f"{self._of(field)} is {came} in all {len(values)} rows; expected it to change, or leave it out"
            )

    def _expect_static(self, field: Field, values: Tensor) -> None:
        first = values[torch.from_numpy(self.offsets[:-1])].repeat_interleave(torch.from_numpy(np.diff(self.offsets)))
        differs = (values != first) & ~(values.isnan() & first.isnan())
        if differs.any():
            place = int(differs.nonzero()[0])
            where = self.table.where(int(self.order[place]))
            raise InputError(f"{where}, static column {field.name!r} changes within a series; expected one value")

    def _of(self, field: Field) -> str:
        return f"{self.table.origin + ', ' if self.table.origin else ''}column {field.name!r}"
