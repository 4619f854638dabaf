"""`Sequences`: measurements, names and texts of any number of sequences of any lengths, without padding."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from recurra import options
from recurra.data.times import Frequency, common, frequency, text
from recurra.data.vocabulary import MISSING, Vocabulary
from recurra.errors import InputError

KINDS = ("number", "category", "text")
ROLES = ("target", "past", "known", "static", "time")


@dataclass(frozen=True)
class Field:
    """What a column is, without its values."""

    name: str
    kind: str
    """A number (NaN: missing); a category (a number of `vocabulary`; -1: missing); a text, whose letters are
    categories."""
    role: str
    """The target; past: known up to its own time step; known: ahead as well; static: the same at every time step;
    time."""
    whole: bool = False
    """Whether there is one value for a sequence, rather than one for each time step."""
    width: tuple[int, ...] = ()
    """The shape of one value: () of a number, (12,) of twelve."""
    vocabulary: Vocabulary | None = None
    """Of categories: their names; of texts: their letters."""
    dated: bool = False
    """Whether times are seconds since 1970, rather than numbers of any unit."""

    def __post_init__(self) -> None:
        options.choice("kind", self.kind, KINDS)
        options.choice("role", self.role, ROLES)

    def as_dict(self) -> dict[str, Any]:
        """The field as plain data, for a file."""
        names = None if self.vocabulary is None else list(self.vocabulary.names)
        return asdict(self) | {"width": list(self.width), "vocabulary": names}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Field:
        """What `as_dict` wrote."""
        names = data["vocabulary"]
        known = None if names is None else Vocabulary(names)
        return cls(**{**data, "width": tuple(data["width"]), "vocabulary": known})


class Sequences:
    """S sequences of N time steps in all, as flat columns and the offsets at which each sequence begins.

    `carried`, `packed` and `padded` of `recurra.data.reading` give batches of them. What makes one: `from_frame`,
    `from_events`, `from_arrays`, `from_tokens`, `from_conllu`, `from_text`, `from_pairs` in the files beside.

    Args:
        fields: what each column is.
        values: for each field [N, *width], or [S, *width] if it is `whole`: float64 of numbers, int64 of categories and
            of texts, which are rows of the table of that name in `spellings`.
        offsets: [S + 1] int64, from 0 to N.
        ids: a name of each sequence; without it their numbers.
        spellings: for each field of texts, [different texts, letters of the longest] int64, filled up with -1.

    Raises:
        InputError: shapes do not belong together.
    """

    def __init__(
        self,
        fields: Iterable[Field],
        values: Mapping[str, Tensor],
        offsets: Tensor,
        ids: Sequence[str] | None = None,
        spellings: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.fields = {field.name: field for field in fields}
        self.values = dict(values)
        self.offsets = offsets
        self.ids = [str(n) for n in range(len(self))] if ids is None else list(ids)
        self.spellings = dict(spellings or {})
        if len(self.ids) != len(self):
            raise InputError(f"ids has {len(self.ids)} names; expected one for each of {len(self)} sequences")
        for name, field in self.fields.items():
            shape = (len(self) if field.whole else self.steps, *field.width)
            if tuple(self.values[name].shape) != shape:
                raise InputError(f"values[{name!r}] is {list(self.values[name].shape)}; expected {list(shape)}")

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __repr__(self) -> str:
        columns = ", ".join(f"{f.name}: {f.kind}, {f.role}" for f in self.fields.values())
        return f"Sequences({len(self)} of {self.steps} steps; {columns})"

    @property
    def steps(self) -> int:
        """N, the time steps of all sequences."""
        return int(self.offsets[-1])

    @cached_property
    def lengths(self) -> Tensor:
        """[S] int64."""
        return self.offsets.diff()

    @cached_property
    def sequence_of(self) -> Tensor:
        """[N] int64: which sequence each time step is of."""
        return torch.arange(len(self)).repeat_interleave(self.lengths)

    def digest(self) -> str:
        """The same for the same fields and values, whatever the sequences are called."""
        fields = json.dumps([field.as_dict() for field in self.fields.values()])
        return digest([self.offsets, *self.values.values(), *self.spellings.values()], fields)

    def of_role(self, *roles: str) -> list[Field]:
        """The fields of some roles, in their order."""
        return [field for field in self.fields.values() if field.role in roles]

    @property
    def time(self) -> Field | None:
        """The field of times, if there is one."""
        return next(iter(self.of_role("time")), None)

    def take(self, name: str, rows: Tensor) -> Tensor:
        """Values of a column at flat rows [...], each a number up to N: [..., *width], of texts [..., letters].

        A row of -1 is missing: NaN of numbers, -1 of categories and texts. Numbers come in PyTorch's default type,
        times in float64. Whole columns are repeated over time.
        """
        field, values = self.fields[name], self.values[name]
        if field.kind == "number" and field.role != "time":
            values = values.to(torch.get_default_dtype())
        if not self.steps:
            return values.new_empty((*rows.shape, *field.width))
        where = self.sequence_of[rows.clamp(min=0)].where(rows >= 0, -1) if field.whole else rows
        found = _picked(values, where.flatten()).view(*rows.shape, *field.width)
        return self._spelt(name, found) if field.kind == "text" else found

    def _spelt(self, name: str, which: Tensor) -> Tensor:
        """[..., letters of the longest among them] int64."""
        letters = self.spellings[name][which.clamp(min=0)].where((which >= 0).unsqueeze(-1), MISSING)
        longest = int((letters >= 0).sum(-1).amax()) if letters.numel() else 0
        return letters[..., :longest]

    def following(self, rows: Tensor, horizon: int) -> Tensor:
        """[..., horizon]: the flat rows 1 to `horizon` time steps after each row, of its own sequence; -1 behind its
        end."""
        later = rows.unsqueeze(-1) + torch.arange(1, horizon + 1)
        if not self.steps:
            return torch.full_like(later, MISSING)
        ends = self.offsets[1:][self.sequence_of[rows.clamp(min=0)]].unsqueeze(-1)
        return later.where((rows.unsqueeze(-1) >= 0) & (later < ends), MISSING)

    def ahead(self, name: str, rows: Tensor, horizon: int) -> Tensor:
        """[..., horizon, *width]: the values 1 to `horizon` time steps after each row, of its own sequence; missing
        behind its end."""
        return self.take(name, self.following(rows, horizon))

    def select(self, which: Tensor | Sequence[int]) -> Sequences:
        """Some sequences, in the order given."""
        chosen = torch.as_tensor(which, dtype=torch.int64)
        return self._part(chosen, self.offsets[:-1][chosen], self.offsets[1:][chosen])

    def clip(self, start: int | None = None, stop: int | None = None) -> Sequences:
        """Of each sequence the time steps `[start:stop]`, counted as in Python's slices: `clip(stop=-30)` leaves out
        the last 30."""
        spans = [slice(start, stop).indices(length)[:2] for length in self.lengths.tolist()]
        first = torch.tensor([a for a, _ in spans], dtype=torch.int64)
        last = torch.tensor([max(a, b) for a, b in spans], dtype=torch.int64)
        return self._part(torch.arange(len(self)), self.offsets[:-1] + first, self.offsets[:-1] + last)

    def cut(self, places: Tensor) -> tuple[Sequences, Sequences]:
        """Each sequence up to `places` [S], counted from its beginning, and the rest of each."""
        begin, end = self.offsets[:-1], self.offsets[1:]
        middle, all_ = torch.minimum(begin + places.clamp(min=0), end), torch.arange(len(self))
        return self._part(all_, begin, middle), self._part(all_, middle, end)

    def _part(self, chosen: Tensor, first: Tensor, last: Tensor) -> Sequences:
        """Sequences `chosen`, each from row `first` up to `last`."""
        offsets = torch.cat([torch.zeros(1, dtype=torch.int64), (last - first).cumsum(0)])
        rows = torch.arange(int(offsets[-1])) + (first - offsets[:-1]).repeat_interleave(last - first)
        values = {n: v[chosen if self.fields[n].whole else rows] for n, v in self.values.items()}
        ids = [self.ids[n] for n in chosen.tolist()]
        return Sequences(self.fields.values(), values, offsets, ids, self.spellings)

    def join(self, other: Sequences) -> Sequences:
        """These sequences, and behind them others of the same fields. Raises InputError if fields differ."""
        if self.fields != other.fields:
            raise InputError(f"other is {other}; expected the fields of {self}")
        values = {name: torch.cat([own, other.values[name]]) for name, own in self.values.items()}
        spellings = {}
        for name, own in self.spellings.items():
            new = values[name][len(self.values[name]) :]
            new[new >= 0] += len(own)
            tables = [*own.unbind(), *other.spellings[name].unbind()]
            spellings[name] = torch.nn.utils.rnn.pad_sequence(tables, batch_first=True, padding_value=MISSING)
        offsets = torch.cat([self.offsets, other.offsets[1:] + self.steps])
        return Sequences(self.fields.values(), values, offsets, self.ids + other.ids, spellings)

    @cached_property
    def elapsed(self) -> Tensor:
        """[N] float64: the time since the step before, in units of the median; 1 at the first step of a sequence, and
        everywhere if there are no times."""
        elapsed = torch.ones(self.steps, dtype=torch.float64)
        if self.time is None or self.steps < 2:
            return elapsed
        gaps = self.values[self.time.name].diff()
        inside = self.sequence_of.diff() == 0
        if inside.any():
            elapsed[1:] = torch.where(inside, gaps / gaps[inside].median(), 1.0)
        return elapsed

    def filled(self) -> Sequences:
        """The same with a row for every step of the frequency: those that are absent are there, and missing.

        Raises InputError as `frequency`.
        """
        return self if self.time is None else self.regular(self.frequency())[0]

    def regular(self, step: Frequency, behind: Tensor | None = None) -> tuple[Sequences, Tensor]:
        """With a row for every step, missing where there was none; and where the rows of these are among them, [N].

        Args:
            behind: the time of the step before the first of each sequence, [S]; minus infinity where there is none.

        Raises InputError, naming the sequence and the time, if one is no whole number of steps from those before it.
        """
        if self.time is None:
            return self, torch.arange(self.steps)
        times = self.values[self.time.name].tolist()
        before = [-math.inf] * len(self) if behind is None else behind.tolist()
        rows, filled, offsets = [], [], [0]
        for n, (a, b) in enumerate(zip(self.offsets[:-1].tolist(), self.offsets[1:].tolist(), strict=True)):
            places = self._places(step, before[n], times[a:b], n)
            own = torch.full((places[-1] + 1 if places else 0,), -1)
            own[places] = torch.arange(a, b)
            rows.append(own)
            filled += [times[r] if r >= 0 else step.after(times[a], m - places[0]) for m, r in enumerate(own.tolist())]
            offsets.append(len(filled))
        if len(filled) == self.steps:
            return self, torch.arange(self.steps)
        where = torch.cat(rows)
        values = {n: v if self.fields[n].whole else _picked(v, where) for n, v in self.values.items()}
        values[self.time.name] = torch.tensor(filled, dtype=torch.float64)
        whole = Sequences(self.fields.values(), values, torch.tensor(offsets), self.ids, self.spellings)
        return whole, (where >= 0).nonzero()[:, 0]

    def _places(self, step: Frequency, before: float, times: Sequence[float], number: int) -> list[int]:
        """Which step behind `before` each time is, from 0."""
        assert self.time is not None
        if before == -math.inf and times:
            before = step.after(times[0], -1)
        places = [step.between(before, time) - 1 for time in times]
        for place, time in zip(places, times, strict=True):
            if place < 0 or not step.reaches(before, time, place + 1):
                when, dated = text(time, self.time.dated), self.time.dated
                raise InputError(
                    f"series {self.ids[number]!r} has a row at {when}; expected times in whole steps, such as "
                    f"{text(step.after(before, max(1, place + 1)), dated)}"
                )
        return places

    def frequency(self) -> Frequency:
        """The time between two steps, the same in all sequences; rows may be absent. Without times it is 1.

        Raises InputError, naming the sequence, if steps are of different lengths or nothing says how long they are.
        """
        if self.time is None:
            return Frequency(0, 1.0)
        times = [part.numpy() for part in self.values[self.time.name].split(self.lengths.tolist())]
        own = {n: frequency(part, self.time.dated) for n, part in enumerate(times) if len(part) > 1}
        if not own:
            raise InputError(f"no series has two times in {self.time.name!r}; expected two, to tell the frequency")
        found = common([each for each in own.values() if each is not None] or [Frequency(0, 1.0)])
        first = next((self.ids[n] for n, each in own.items() if each == found), "")
        for n, each in own.items():
            if each != found and (each is None or not found.fits(times[n])):
                near = ", ".join(text(float(t), self.time.dated) for t in times[n][:3])
                what = "steps of different lengths" if each is None else f"other steps than {first!r}"
                which = f"series {self.ids[n]!r}"
                raise InputError(f"{which} has {what} in {self.time.name!r} ({near}, ...); expected one frequency")
        return found


def _picked(values: Tensor, rows: Tensor) -> Tensor:
    """Flat values at rows [n], missing where a row is -1."""
    blank = torch.nan if values.is_floating_point() else MISSING
    there = (rows >= 0).view(-1, *[1] * (values.dim() - 1))
    return values[rows.clamp(min=0)].where(there, blank)


def digest(tensors: Iterable[Tensor], about: str = "") -> str:
    """The same for the same numbers."""
    found = hashlib.sha256(about.encode())
    for tensor in tensors:
        found.update(tensor.contiguous().numpy().tobytes())
    return found.hexdigest()
