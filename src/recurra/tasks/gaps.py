"""The time between steps as a column of its own: for sequences whose steps are not regular."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from recurra.data.sequences import Field, Sequences
from recurra.errors import InputError

GAP = "gap before"
"""The column: log(1 + the time since the step before, in units of the median), known as soon as a time is."""
ONE = math.log(2)
"""What stands for a gap as long as the median, and in front of the first step of a sequence."""


def unit_of(sequences: Sequences) -> float:
    """The median of the times between steps. Raises InputError if there are no times, or no two in a sequence."""
    if sequences.time is None:
        raise InputError("gap is True, and the data have no column of times; expected one, or gap=False")
    gaps = sequences.values[sequences.time.name].diff()[sequences.sequence_of.diff() == 0]
    if not len(gaps) or not gaps.median() > 0:
        raise InputError(
            f"gap is True, and {sequences.time.name!r} has no two times in one sequence, one after another"
        )
    return float(gaps.median())


def with_gaps(sequences: Sequences, unit: float, behind: Tensor | None = None) -> Sequences:
    """The same with the column of gaps, if it is not there.

    Args:
        unit: of `unit_of`, of the data that were fitted on.
        behind: the time of the step before the first of each sequence, [S]; minus infinity where there is none.

    Raises InputError if there are no times.
    """
    if GAP in sequences.fields:
        return sequences
    if sequences.time is None:
        raise InputError("X has no column of times, which gap=True reads; expected those that were fitted on")
    times = sequences.values[sequences.time.name]
    before = times.roll(1)
    first = sequences.offsets[:-1][sequences.lengths > 0]
    before[first] = -math.inf if behind is None else behind[sequences.lengths > 0]
    found = torch.where(before.isinf(), ONE, ((times - before) / unit).clamp(min=0).log1p())
    fields = [*sequences.fields.values(), Field(GAP, "number", "known")]
    return Sequences(fields, sequences.values | {GAP: found}, sequences.offsets, sequences.ids, sequences.spellings)


def gap_of(before: float, now: float, unit: float) -> float:
    """The value of the column in one row; nothing came before it if that is minus infinity."""
    return ONE if before == -math.inf else math.log1p((now - before) / unit)
