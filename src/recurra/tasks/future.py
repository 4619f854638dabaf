"""The steps that follow the end of each series: their times, and what is known of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recurra.data.frames import from_frame
from recurra.data.sequences import Field, Sequences
from recurra.data.times import Frequency, text
from recurra.errors import InputError
from recurra.tasks.gaps import GAP
from recurra.tasks.inlet import Encoding


@dataclass(frozen=True)
class Future:
    """The `horizon` steps after the end of each of S series."""

    ids: list[str]
    time: Field | None
    times: Tensor
    """[S, horizon] float64; numbers of steps where there is no column of times."""
    ends: Tensor
    """[S] float64: the last time of each series."""
    frequency: Frequency

    @classmethod
    def of(
        cls, ids: Sequence[str], ends: Tensor, fields: Sequence[Field], frequency: Frequency, horizon: int
    ) -> Future:
        """After `ends` [S], the last time of each series."""
        time = next((field for field in fields if field.role == "time"), None)
        after = [[frequency.after(end, j) for j in range(1, horizon + 1)] for end in ends.tolist()]
        return cls(list(ids), time, torch.tensor(after, dtype=torch.float64).view(len(ids), horizon), ends, frequency)

    def at_times_of(self, table: Any, id: str | None) -> Future:
        """As many steps, at the first times behind the end of each series that a table says.

        Raises InputError, naming the series, if there are too few.
        """
        assert self.time is not None
        given, count, times = from_frame(table, id=id, like=[self.time]), self.times.shape[1], []
        own = dict(zip(given.ids, given.values[self.time.name].split(given.lengths.tolist()), strict=True))
        for name, end in zip(self.ids, self.ends.tolist(), strict=True):
            later = own[name][own[name] > end] if name in own else self.ends[:0]
            if len(later) < count:
                after = f"after {text(end, self.time.dated)}"
                raise InputError(
                    f"known has {len(later)} rows of series {name!r} {after}; expected {count}, one a step"
                )
            times.append(later[:count])
        return replace(self, times=torch.stack(times))

    def table(self, id: str | None) -> dict[str, Any]:
        """Columns that say which series and when, one row for each step."""
        return stamps(
            self.ids, self.times.shape[1] * torch.ones(len(self.ids), dtype=torch.int64), self.times, self.time, id
        )

    def known(
        self, encoding: Encoding | None, fields: Sequence[Field], table: Any, id: str | None
    ) -> dict[str, Tensor]:
        """The columns that an encoding reads, [S, 1, horizon, *width].

        Raises InputError if a column is missing, or if the table ends before the horizon does.
        """
        reads = [] if encoding is None else encoding.reads
        own = [field for field in fields if field.name in reads and field.role == "known" and field.name != GAP]
        found = {self.time.name: self.times[:, None]} if self.time is not None and self.time.name in reads else {}
        if GAP in reads:
            apart = self.times.diff(prepend=self.ends[:, None]) / self.frequency.seconds
            found[GAP] = apart.log1p().to(torch.get_default_dtype())[:, None]
        if not own:
            return found
        if table is None:
            names = ", ".join(repr(field.name) for field in own)
            raise InputError(
                f"known is missing; expected a table of {names} at the {self.times.shape[1]} steps to come"
            )
        given = from_frame(table, id=id, like=[*own] if self.time is None else [self.time, *own])
        rows = torch.stack([self._rows(given, n) for n in range(len(self.ids))])
        return found | {field.name: given.take(field.name, rows)[:, None] for field in own}

    def _rows(self, given: Sequences, number: int) -> Tensor:
        """[horizon]: where the steps of a series are among the flat rows of a table."""
        name, wanted = self.ids[number], self.times[number]
        if name not in given.ids:
            raise InputError(f"known has no rows of series {name!r}; expected {len(wanted)}, one for each step to come")
        which = given.ids.index(name)
        first, last = given.offsets[which : which + 2].tolist()
        if self.time is None:
            if last - first < len(wanted):
                raise InputError(
                    f"known has {last - first} rows of series {name!r}; expected {len(wanted)}, the whole horizon"
                )
            return torch.arange(first, first + len(wanted))
        times = given.values[self.time.name][first:last]
        place = torch.searchsorted(times, wanted).clamp(max=len(times) - 1)
        if (wrong := (times[place] - wanted).abs() > 1e-6 * wanted.abs().clamp(min=1)).any():
            when = text(float(wanted[wrong][0]), self.time.dated)
            raise InputError(f"known has no row of series {name!r} at {when}; expected the whole horizon")
        return first + place


def stamps(ids: Sequence[str], counts: Tensor, times: Tensor, time: Field | None, id: str | None) -> dict[str, Any]:
    """Columns that say which series a row is of, `counts` [S] rows each, and when; times are dates if they were."""
    found: dict[str, Any] = {}
    if id is not None or list(ids) != ["series"]:
        found[id or "unique_id"] = np.repeat(np.array(ids, str), counts.numpy())
    flat = times.reshape(-1).numpy()
    if time is None:
        found["step"] = flat.astype(np.int64)
    elif time.dated:
        found[time.name] = np.round(flat * 1e6).astype("int64").astype("datetime64[us]")
    else:
        found[time.name] = flat
    return found


def ends_of(sequences: Sequences) -> Tensor:
    """[S] float64: the last time of each; without times, how many steps came before it."""
    last = sequences.offsets[1:] - 1
    if sequences.time is None:
        return (sequences.lengths - 1).double()
    return sequences.values[sequences.time.name][last]
