"""Batches of `Sequences`, in three ways. Each reads every time step once an epoch, and gives batch number n the same
whenever it is asked for, so that a run goes on where it stopped."""

from __future__ import annotations

import heapq
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recurra import options
from recurra.data.sequences import Sequences
from recurra.errors import InputError


@dataclass(frozen=True)
class Batch:
    """B rows of T time steps."""

    columns: dict[str, Tensor]
    """[B, T, *width] each."""
    rows: Tensor
    """[B, T] int64: which time step of the flat columns each is; -1 is padding."""
    lengths: Tensor
    """[B] int64: time steps before the padding."""
    resets: Tensor
    """[B, T] bool: a sequence begins here."""


class Reading(ABC):
    """Sequences as batches. `seed` says in which order; without it they come in their own, as for evaluation.

    Raises:
        InputError: an argument is out of range, or there is nothing to read.
    """

    def __init__(self, sequences: Sequences, batch: int, seed: int | None) -> None:
        self.sequences = options.instance("sequences", sequences, Sequences)
        self.batch = options.count("batch", batch)
        self.seed = None if seed is None else options.whole("seed", seed, high=2**63)
        self._planned: tuple[int, list[Any]] = (-1, [])
        if not sequences.steps:
            raise InputError("sequences has no time step; expected at least one")

    @abstractmethod
    def _plan(self, dice: np.random.Generator | None) -> list[Any]:
        """What makes the batches of one epoch; how many there are is the same for all."""

    def _rows(self, planned: Any) -> Tensor:
        """[B, T] int64: the rows of a batch; by default planned as the sequences of each row."""
        joined = [self._joined(numbers) for numbers in planned]
        return torch.nn.utils.rnn.pad_sequence(joined, batch_first=True, padding_value=-1)

    @cached_property
    def per_epoch(self) -> int:
        """Batches in one epoch."""
        return len(self._epoch(0))

    def __len__(self) -> int:
        return self.per_epoch

    def __iter__(self) -> Iterator[Batch]:
        return (self.read(number) for number in range(self.per_epoch))

    def read(self, number: int) -> Batch:
        """Batch number `number` of a run of any number of epochs."""
        epoch, place = divmod(number, self.per_epoch)
        rows = self._rows(self._epoch(epoch)[place])
        rows = rows[:, : int((rows >= 0).any(0).sum())]
        columns = {name: self.sequences.take(name, rows) for name in self.sequences.fields}
        resets = self._begins[rows.clamp(min=0)] & (rows >= 0)
        if not place:
            resets[:, :1] = rows[:, :1] >= 0  # nothing is carried from one epoch into the next
        return Batch(columns, rows, (rows >= 0).sum(1), resets)

    def _epoch(self, epoch: int) -> list[Any]:
        """The plan of one epoch; the last one is kept."""
        if self._planned[0] != epoch:
            dice = None if self.seed is None else np.random.default_rng([self.seed, epoch])
            self._planned = (epoch, self._plan(dice))
        return self._planned[1]

    @cached_property
    def _begins(self) -> Tensor:
        """[N] bool: whether a time step is the first of a sequence."""
        first = self.sequences.offsets[:-1][self.sequences.lengths > 0]
        return torch.zeros(self.sequences.steps, dtype=torch.bool).index_fill(0, first, True)

    def _order(self, dice: np.random.Generator | None, count: int) -> list[int]:
        return list(range(count)) if dice is None else dice.permutation(count).tolist()

    def _joined(self, numbers: list[int]) -> Tensor:
        """The rows of some sequences, one behind the other."""
        which = torch.tensor(numbers, dtype=torch.int64)
        first, lengths = self.sequences.offsets[which], self.sequences.lengths[which]
        begins = lengths.cumsum(0) - lengths
        return torch.arange(int(lengths.sum())) + (first - begins).repeat_interleave(lengths)


class Carried(Reading):
    """Windows of `length` time steps of `batch` streams side by side: row b of a window goes on where row b of the one
    before ended, so that the state flows on.

    All sequences are one tape, cut into streams of equal length at places that change from epoch to epoch: a stream may
    begin within a sequence, and resets say so. Windows at the end of an epoch may be shorter.
    """

    def __init__(self, sequences: Sequences, batch: int, length: int, seed: int | None = 0) -> None:
        super().__init__(sequences, batch, seed)
        self.length = options.count("length", length)

    def _plan(self, dice: np.random.Generator | None) -> list[Any]:
        tape = self._joined(self._order(dice, len(self.sequences)))
        if dice is not None:
            tape = tape.roll(int(dice.integers(len(tape))))
        each = -(-len(tape) // self.batch)
        full = torch.full((self.batch * each,), -1)
        full[: len(tape)] = tape
        return list(full.view(self.batch, each).split(self.length, 1))

    def _rows(self, planned: Any) -> Tensor:
        found: Tensor = planned
        return found


class Packed(Reading):
    """Whole sequences one behind the other in rows of about `length` time steps, `batch` rows at a time; resets say
    where one begins. A sequence that is longer has a row for itself."""

    def __init__(self, sequences: Sequences, batch: int, length: int, seed: int | None = 0) -> None:
        super().__init__(sequences, batch, seed)
        self.length = options.count("length", length)

    @cached_property
    def _bins(self) -> list[list[int]]:
        """Which sequences share a row: the longest first, each to where most room is left."""
        lengths = self.sequences.lengths.tolist()
        bins: list[list[int]] = []
        emptiest: list[tuple[int, int]] = []  # (minus the room, the row)
        for number in sorted((n for n, length in enumerate(lengths) if length), key=lambda n: -lengths[n]):
            if emptiest and -emptiest[0][0] >= lengths[number]:
                room, place = heapq.heappop(emptiest)
                bins[place].append(number)
            else:
                room, place = -self.length, len(bins)
                bins.append([number])
            heapq.heappush(emptiest, (room + lengths[number], place))
        return bins

    def _plan(self, dice: np.random.Generator | None) -> list[Any]:
        chosen = [self._bins[n] for n in self._order(dice, len(self._bins))]
        return [chosen[n : n + self.batch] for n in range(0, len(chosen), self.batch)]


class Padded(Reading):
    """`batch` sequences at a time, one in a row, filled up to the longest of them. With a seed, sequences of about the
    same length come together, so that there is little to fill."""

    def __init__(self, sequences: Sequences, batch: int, seed: int | None = 0) -> None:
        super().__init__(sequences, batch, seed)

    def _plan(self, dice: np.random.Generator | None) -> list[Any]:
        order = self._order(dice, len(self.sequences))
        if dice is not None:
            lengths = self.sequences.lengths.tolist()
            order.sort(key=lambda n: lengths[n])
        batches = [[[m] for m in order[n : n + self.batch]] for n in range(0, len(order), self.batch)]
        return [batches[n] for n in self._order(dice, len(batches))]


def stretch(sequences: Sequences, batch: Batch, crop: float) -> Batch:
    """Of each row of padded sequences a stretch without up to this share of its steps; how many and where is random."""
    share = 1 - crop * torch.rand(len(batch.rows))
    lengths = (batch.lengths * share).ceil().long().minimum(batch.lengths)
    begins = ((batch.lengths - lengths + 1) * torch.rand(len(batch.rows))).long()
    steps = torch.arange(int(lengths.max()))
    found = batch.rows.gather(1, (begins[:, None] + steps).clamp(max=batch.rows.shape[1] - 1))
    rows = torch.where(steps < lengths[:, None], found, -1)
    columns = {name: sequences.take(name, rows) for name in sequences.fields}
    return Batch(columns, rows, lengths, (steps == 0) & (rows >= 0))
