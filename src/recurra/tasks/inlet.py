"""From columns to what a backbone reads: the one place that knows kinds of data."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from recurra import options
from recurra.data.reading import Padded
from recurra.data.sequences import Field, Sequences
from recurra.errors import InputError
from recurra.models.stacked import Stacked
from recurra.nn.linear import Linear
from recurra.pointwise import Dropout
from recurra.recurrences.gru import GRU
from recurra.state import State
from recurra.tasks.calendar import Calendar
from recurra.tasks.chain import start
from recurra.tasks.inlets.own import Own, name_of
from recurra.tasks.inlets.shapes import Shapes
from recurra.tasks.scaler import Scaler

SCALES = ("running", "fit", "none")
SHAPES_DROPPED = 0.2
"""Share of random shapes that are not seen in an update."""
TOGETHER = 64
"""Sequences side by side where nothing is learned."""
FAR = 30.0
"""Deviations beyond which a number is cut when it is read: one that breaks all bounds may not drown the rest."""


def channels(field: Field) -> int:
    """Numbers in one value."""
    return math.prod(field.width)


def numbers(fields: Sequence[Field], columns: Mapping[str, Tensor], axes: int) -> Tensor:
    """[..., channels] of number columns [..., *width] with `axes` axes in front of their own."""
    found = [columns[field.name] for field in fields]
    return torch.cat(
        [value.reshape(*value.shape[:axes], channels(f)) for f, value in zip(fields, found, strict=True)], -1
    )


class Letters(nn.Module):
    """A text, [..., letters] int64 with -1 behind its end, to [..., width]: GRUs over its letters from both ends, their
    last outputs joined. What is written several times in one call is read once."""

    def __init__(self, letters: int, width: int):
        super().__init__()
        self.embedding = nn.Embedding(letters + 2, width)
        self.recurrence = Stacked(GRU, width, bidirectional=True)
        self.join = Linear(2 * width, width, bias=False)

    def forward(self, text: Tensor) -> Tensor:
        """Zeros where there is no letter."""
        flat = text.reshape(math.prod(text.shape[:-1]), text.shape[-1])
        if not flat.numel():
            return self.embedding.weight.new_zeros(*text.shape[:-1], self.join.out_features)
        words, which = flat[:, : max(1, int((flat >= 0).sum(1).max()))].unique(dim=0, return_inverse=True)
        return self.join(self._ends(words))[which].view(*text.shape[:-1], -1)

    def _ends(self, words: Tensor) -> Tensor:
        """[n, 2 width] of [n, letters]: what each direction says when it has read the whole of a word."""
        lengths = (words >= 0).sum(1)
        y, _ = self.recurrence(self.embedding(words + 1), lengths=lengths)
        ahead, back = y.chunk(2, -1)
        return torch.cat([ahead[torch.arange(len(words)), (lengths - 1).clamp(min=0)], back[:, 0]], 1)


class Encoding(nn.Module):
    """Columns [..., *width] to [..., width], the sum of what each says. Missing numbers are 0 beside a flag, missing
    categories a class of their own; numbers are scaled as they were over all data that `fit` has seen.

    Args:
        fields: what to read, of any kind.
        width: of the result.
        calendar: reads the field whose role is time; without it that is not read.
    """

    def __init__(self, fields: Sequence[Field], width: int, calendar: Calendar | None = None):
        super().__init__()
        self.width, self.calendar = width, calendar
        self.time = next((f.name for f in fields if f.role == "time"), "") if calendar is not None else ""
        fields = [field for field in fields if field.role != "time"]
        self.numbers = [field for field in fields if field.kind == "number"]
        self.categories = [field for field in fields if field.kind == "category"]
        self.texts = [field for field in fields if field.kind == "text"]
        count = sum(channels(field) for field in self.numbers)
        self.mean: Tensor
        self.deviation: Tensor
        self.register_buffer("mean", torch.zeros(count))
        self.register_buffer("deviation", torch.ones(count))
        self.of_numbers = Linear(2 * count, width, bias=False) if count else None
        self.of_categories = nn.ModuleList(nn.Embedding(_size(f) + 2, width) for f in self.categories)
        self.of_texts = nn.ModuleList(Letters(_size(f), width) for f in self.texts)
        self.of_time = Linear(calendar.size, width, bias=False) if calendar is not None and self.time else None

    @property
    def reads(self) -> list[str]:
        """Names of the columns that are read."""
        own = [field.name for field in (*self.numbers, *self.categories, *self.texts)]
        return own + [self.time] * (self.of_time is not None)

    def fit(self, sequences: Sequences) -> None:
        """Learn means and deviations of the numbers, those of a whole sequence counted once."""
        self.mean, self.deviation = fixed_scale(self.numbers, sequences, self.mean)

    def forward(self, columns: Mapping[str, Tensor], shape: torch.Size) -> Tensor:
        """[*shape, width]; `shape` is what columns have in front of their own axes."""
        return self.said(self.measured(columns, shape))

    @property
    def sizes(self) -> list[int]:
        """How many numbers `measured` gives: of numbers, of the calendar, of names."""
        names = self.width if self.categories or self.texts else 0
        return [len(self.mean), 0 if self.of_time is None else self.of_time.in_features, names]

    def measured(self, columns: Mapping[str, Tensor], shape: torch.Size) -> Tensor:
        """[*shape, sum of `sizes`]: numbers as they are, what the calendar says, and the sum of what names say."""
        like = self.mean
        parts = [like.new_empty(*shape, 0)]
        if self.numbers:
            parts.append(numbers(self.numbers, columns, len(shape)).to(like.dtype))
        if self.of_time is not None and self.calendar is not None:
            parts.append(self.calendar(columns[self.time]).to(like.dtype))
        if self.categories or self.texts:
            parts.append(self.names(columns, shape))
        return torch.cat(parts, -1)

    def names(self, columns: Mapping[str, Tensor], shape: torch.Size) -> Tensor:
        """[*shape, width]: the sum of what categories and texts say."""
        total = self.mean.new_zeros(*shape, self.width)
        for field, embedding in zip(self.categories, self.of_categories, strict=True):
            found = embedding(columns[field.name] + 1)
            total = total + (found.flatten(len(shape), -2).sum(-2) if field.width else found)
        for field, letters in zip(self.texts, self.of_texts, strict=True):
            total = total + letters(columns[field.name])
        return total

    def said(self, measured: Tensor) -> Tensor:
        """[..., width] of what `measured` gives."""
        value, times, names = measured.split(self.sizes, -1)
        total = names if names.shape[-1] else measured.new_zeros(*measured.shape[:-1], self.width)
        if self.of_numbers is not None:
            total = total + self.of_numbers(flagged((value - self.mean) / self.deviation))
        if self.of_time is not None:
            total = total + self.of_time(times)
        return total


def _size(field: Field) -> int:
    """Names of a category, or letters of a text."""
    return 0 if field.vocabulary is None else field.vocabulary.unknown


def flagged(value: Tensor) -> Tensor:
    """[..., 2 C]: numbers [..., C], 0 where they are missing, then flags that say so."""
    missing = value.isnan()
    return torch.cat([torch.where(missing, 0, value).clamp(-FAR, FAR), missing.to(value.dtype)], -1)


def fixed_scale(fields: Sequence[Field], sequences: Sequences, like: Tensor) -> tuple[Tensor, Tensor]:
    """Means and deviations [channels] of number columns, of what is there of them; 0 and 1 where nothing spreads."""
    means, deviations = [torch.empty(0, dtype=torch.float64)], [torch.empty(0, dtype=torch.float64)]
    for field in fields:
        value = sequences.values[field.name].double().reshape(-1, channels(field))
        there = ~value.isnan()
        count = there.sum(0).clamp(min=1)
        mean = torch.where(there, value, 0).sum(0) / count
        spread = (torch.where(there, value - mean, 0).square().sum(0) / count).sqrt()
        means.append(mean)
        deviations.append(torch.where(spread > 1e-9 * mean.abs(), spread, 1))
    return torch.cat(means).to(like), torch.cat(deviations).to(like)


@dataclass(frozen=True)
class Scale:
    """Where the numbers of the running channels lay at each time step, and how far they spread, [B, T, channels]."""

    mean: Tensor
    deviation: Tensor


def scaled(value: Tensor, scale: Scale) -> Tensor:
    """Numbers of a series in its own units, with their flags, as `flagged` has it."""
    return flagged((value - scale.mean) / scale.deviation)


class Inlet(nn.Module):
    """Columns [B, T, *width] to x [B, T, width], with a state: `x, scale, state = inlet(columns, state, ...)`.

    Args:
        series: number fields measured at each step, such as the target's past; they come first in the scale.
        others: all other fields, read as `Encoding` does.
        width: of x.
        scale: of the series: "running", by means and deviations so far; "fit", those of the data fitted on; "none".
        calendar: reads the field whose role is time.
        memory: of the running scale, as `Scaler` has it.
        dropout: of x, while training.
        own: a part of one's own, as `Own` has it: reads the scaled numbers of the series, 0 where they are missing, in
            place of a linear map. With one field they have its shape.
        shapes, span: so many random shapes are looked for in the scaled numbers, within so many steps, as `Shapes` has
            it. How often each was seen stands behind x, which then has `width` + `beside` channels.

    Raises InputError if there is no series for `own` or shapes to read, or it does not fit.
    """

    def __init__(
        self,
        series: Sequence[Field],
        others: Sequence[Field],
        width: int,
        scale: str = "running",
        calendar: Calendar | None = None,
        memory: int | None = None,
        dropout: float = 0.0,
        own: Any = None,
        shapes: int = 0,
        span: int = 1,
    ):
        super().__init__()
        self.series, self.width = list(series), options.count("width", width)
        self.how = options.choice("scale", scale, SCALES)
        count = sum(channels(field) for field in self.series)
        self.scale = Scaler(count, memory) if count and scale == "running" else None
        self.mean: Tensor
        self.deviation: Tensor
        self.register_buffer("mean", torch.zeros(count))
        self.register_buffer("deviation", torch.ones(count))
        if own is not None and not count:
            raise InputError(f"inlet is a {name_of(own)}, and there is no column of numbers for it to read")
        if options.whole("shapes", shapes) and not count:
            raise InputError(f"shapes is {shapes}, and there is no column of numbers to look for them in; expected 0")
        self.shapes = Shapes(count, shapes, span, SHAPES_DROPPED) if shapes else None
        shape = self.series[0].width if len(self.series) == 1 else ()
        self.own = None if own is None else Own(own, shape or (count,), width)
        self.of_series = Linear(count if self.own is not None else 2 * count, width) if count else None
        self.encoding = Encoding(others, width, calendar)
        self.dropout = Dropout(dropout)

    @property
    def beside(self) -> int:
        """Channels of x that are for the head alone."""
        return 0 if self.shapes is None else self.shapes.count

    @property
    def splits(self) -> list[int]:
        """Where a row of numbers goes on with what `Encoding.measured` gives, and where that ends."""
        series = len(self.mean)
        return [series, series + sum(self.encoding.sizes)]

    @property
    def reads(self) -> list[str]:
        """Names of the columns that are read."""
        return [field.name for field in self.series] + self.encoding.reads

    def fit(self, sequences: Sequences) -> None:
        """Learn fixed scales, and how often shapes are seen."""
        self.encoding.fit(sequences)
        if self.how == "fit":
            self.mean, self.deviation = fixed_scale(self.series, sequences, self.mean)
        if self.shapes is not None:
            self.shapes.fit(lambda: self._series_of(sequences))

    def seen(self, sequences: Sequences) -> Tensor | None:
        """How often shapes are in whole sequences, [cases, shapes]; None if none are looked for."""
        return None if self.shapes is None else self.shapes.at_ends(self._series_of(sequences))

    def _series_of(self, sequences: Sequences) -> Iterator[tuple[Tensor, Tensor]]:
        """The scaled numbers of whole sequences, [B, T, channels], and their lengths."""
        for batch in Padded(sequences, TOGETHER, None):
            value = numbers(self.series, batch.columns, 2).to(self.mean.dtype)
            scale, _ = self._scale_of(value, None, None, batch.lengths, "auto")
            yield scaled(value, scale).chunk(2, -1)[0], batch.lengths

    def initial_state(self, batch: int) -> State:
        """The state before the first time step."""
        state = State() if self.scale is None else self.scale.initial_state(batch, self.mean)
        for name, part in self._parts().items():
            state |= start(part, batch, self.mean).prefixed(name)
        return State(state)

    def _parts(self, look: bool = True) -> dict[str, nn.Module]:
        """What reads the scaled numbers with a state of its own, by the names that these have in the state."""
        both = {"own": self.own, "shapes": self.shapes if look else None}
        return {name: part for name, part in both.items() if part is not None}

    def forward(
        self,
        columns: Mapping[str, Tensor],
        state: Mapping[str, Tensor] | None = None,
        *,
        resets: Tensor | None = None,
        lengths: Tensor | None = None,
        engine: str = "auto",
        look: bool = True,
    ) -> tuple[Tensor, Scale, State]:
        """x [B, T, width + beside], the scale of the series at each step, the new state; arguments as for a layer.
        Without `look` no shapes are looked for, and x is [B, T, width]."""
        shape = columns[self.reads[0]].shape[:2]
        value = numbers(self.series, columns, 2) if self.series else self.mean.new_empty(*shape, 0)
        encoded = self.encoding(columns, shape)
        return self.enter(value.to(self.mean.dtype), encoded, state, resets, lengths, engine, look)

    def enter(
        self,
        value: Tensor,
        encoded: Tensor,
        state: Mapping[str, Tensor] | None = None,
        resets: Tensor | None = None,
        lengths: Tensor | None = None,
        engine: str = "auto",
        look: bool = True,
    ) -> tuple[Tensor, Scale, State]:
        """As `forward`, of the numbers of the series [B, T, channels] and what else there is, encoded [B, T, width]."""
        if self.of_series is None:
            return self.dropout(encoded), Scale(value, value), State()
        scale, after = self._scale_of(value, state, resets, lengths, engine)
        read, said = scaled(value, scale), dict[str, Tensor]()
        for name, part in self._parts(look).items():
            before = None if state is None else State(state).under(name) or None
            there = read.chunk(2, -1)[0]
            said[name], passed = part(there, before, resets=resets, lengths=lengths, engine=engine)
            after = State(after | passed.prefixed(name))
        if self.own is not None:
            encoded, read = encoded + said["own"], read.chunk(2, -1)[1]
        x = self.dropout(self.of_series(read) + encoded)
        return x if "shapes" not in said else torch.cat([x, said["shapes"]], -1), scale, after

    def _scale_of(
        self,
        value: Tensor,
        state: Mapping[str, Tensor] | None,
        resets: Tensor | None,
        lengths: Tensor | None,
        engine: str,
    ) -> tuple[Scale, State]:
        """Of the series at each step, and the state of the scaler."""
        if self.scale is None:
            return Scale(self.mean.expand_as(value), self.deviation.expand_as(value)), State()
        parts = tuple(f"{name}." for name in self._parts())
        carried = {name: t for name, t in (state or {}).items() if not name.startswith(parts)} if parts else state
        if value.shape[1] == 1 and resets is None and lengths is None and engine == "auto":
            both, after = self.scale.advance(value[:, 0], carried or None)  # in one kernel, where that can be
            both = both[:, None]
        else:
            both, after = self.scale(value, carried or None, resets=resets, lengths=lengths, engine=engine)
        mean, deviation = both.chunk(2, -1)
        # Behind the padding there are zeros: nothing is divided by them.
        return Scale(mean, torch.where(deviation == 0, 1, deviation)), after
