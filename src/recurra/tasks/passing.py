"""One pass of a model over sequences: what it has read at some steps, and where it stands after the last of each.

A place is a State of S sequences: that of the model, and under `read` what it has made of the last step.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from recurra.data.sequences import Sequences
from recurra.state import State
from recurra.tasks.inlet import Scale
from recurra.tasks.model import PARTS, Model, Read

ROWS, STEPS = 64, 1024
"""Sequences side by side, and time steps of each, in one call of the model."""


@dataclass(frozen=True)
class Piece:
    """Some time steps of some sequences."""

    which: Tensor
    """[B] int64: the sequences."""
    rows: Tensor
    """[B, T] int64: their time steps among the flat columns; -1 is padding."""
    before: Read
    """What the model had made of the step before the first, [B, 1, ...]."""
    read: Read
    """What it has made of these, [B, T, ...]."""


class Pass:
    """Reads sequences from a place on: iterate over the pieces, then `end` is the place after the last step of each.

    Args:
        begin: of as many sequences; by default nothing has been read of any.
    """

    def __init__(self, model: Model, sequences: Sequences, begin: State | None = None):
        self.model, self.sequences = model, sequences
        self.begin = start(model, len(sequences)) if begin is None else begin
        self._parts: list[State] = []

    @property
    def end(self) -> State:
        """After the last step of each sequence."""
        return together(self._parts)

    def __iter__(self) -> Iterator[Piece]:
        self._parts = []
        for first in range(0, max(1, len(self.sequences)), ROWS):
            yield from self._read(torch.arange(first, min(first + ROWS, len(self.sequences))))

    def run(self) -> State:
        """Read all; gives the place at the end."""
        for _ in self:
            pass
        return self.end

    @torch.no_grad()
    def _read(self, which: Tensor) -> Iterator[Piece]:
        place, lengths = self.begin.rows(which), self.sequences.lengths[which]
        begins = self.sequences.offsets[which]
        for first in range(0, int(lengths.max()) if len(which) else 0, STEPS):
            left = (lengths - first).clamp(0, STEPS)
            steps = torch.arange(int(left.max()))
            rows = torch.where(steps < left[:, None], begins[:, None] + first + steps, -1)
            columns = {name: self.sequences.take(name, rows) for name in self.model.inlet.reads}
            ragged = left if (left < len(steps)).any() else None
            read, state = self.model.read(columns, state_of(place), lengths=ragged)
            before = read_of(place)
            yield Piece(which, rows, before, read)
            now = read.at(torch.arange(len(which)), (left - 1).clamp(min=0))
            place = placed(state, now.where(left > 0, before))
        self._parts.append(place)


def together(places: list[State]) -> State:
    """The rows of all places. Where a state grows, what is shorter begins with zeros, as such a state does."""

    def cat(values: list[Tensor]) -> Tensor:
        if values[0].dim() > 2:
            longest = max(value.shape[2] for value in values)
            short = [0, 0] * (values[0].dim() - 3)
            values = [nn.functional.pad(value, [*short, longest - value.shape[2], 0]) for value in values]
        return torch.cat(values)

    return State({name: cat([place[name] for place in places]) for name in places[0]})


def placed(state: State, read: Read) -> State:
    """A place, of a model's state and what it has made of the last step, [S, 1, ...]."""
    own = {"y": read.y, "mean": read.scale.mean, "deviation": read.scale.deviation}
    return State(state | State(own).prefixed("read"))


def state_of(place: State) -> State:
    """The model's state at a place."""
    return State({name: value for name, value in place.items() if name.split(".")[0] in PARTS})


def read_of(place: State) -> Read:
    """What the model has made of the last step, [S, 1, ...]."""
    return Read(place["read.y"], Scale(place["read.mean"], place["read.deviation"]))


def start(model: Model, count: int) -> State:
    """The place at which nothing has been read."""
    like, shape = model.inlet.mean, (count, 1, len(model.inlet.mean))
    read = Read(like.new_zeros(count, 1, model.backbone.width), Scale(like.new_zeros(shape), like.new_ones(shape)))
    return placed(model.initial_state(count), read)
