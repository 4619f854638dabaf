"""What new rows say of the forecasts that were made before them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from recurra.data.sequences import Sequences
from recurra.errors import InputError
from recurra.state import State
from recurra.tasks import horizon
from recurra.tasks.future import stamps
from recurra.tasks.model import Model, Read
from recurra.tasks.passing import Pass, read_of, state_of


@torch.no_grad()
def followed(model: Model, sequences: Sequences, way: Pass, known: Tensor) -> tuple[Tensor, Tensor]:
    """What had been expected of each row one step before, and its surprise, [N, targets]; NaN at the first row of a
    series that was not `known` [S] before."""
    count = horizon.values(sequences, torch.arange(0)).shape[-1]
    expected, surprise = torch.full((2, sequences.steps, count), torch.nan)
    reads = horizon.reads_ahead(model)
    for piece in way:
        rows, read = piece.rows, piece.read.after(piece.before)
        raw = horizon.raw(model, read, {name: sequences.take(name, rows)[:, :, None] for name in reads}, 1)
        around, truth = read.around(count), horizon.values(sequences, rows)[:, :, None]
        told = torch.where(truth.isnan(), torch.nan, model.head.surprise(raw, truth, around))
        first = rows == sequences.offsets[piece.which, None]
        there = (rows >= 0) & (known[piece.which, None] | ~first)
        expected[rows[there]] = model.head.predict(raw, around)[:, :, 0][there]
        surprise[rows[there]] = told[:, :, 0][there]
    return expected, surprise


def missed(model: Model, sequences: Sequences, begin: State, known: Tensor) -> Tensor:
    """The loss of the forecasts made before each new row, as far as rows have come; a series that was not `known` [S]
    before has none before its first."""
    rows, read = foreseen(model, sequences, begin)
    steps = horizon.outlook(model).horizon
    ahead = {name: horizon.onwards(sequences, name, rows, steps) for name in horizon.reads_ahead(model)}
    truth = horizon.came(model, sequences, rows)
    truth[~known, 0] = torch.nan
    return model.head.loss(horizon.raw(model, read, ahead), truth, None, read.around(truth.shape[-1]))


def foreseen(model: Model, sequences: Sequences, begin: State) -> tuple[Tensor, Read]:
    """The flat rows [B, T] of new steps, -1 behind the end of each series, and, with gradient, what a model had read
    one step before each of them."""
    steps = torch.arange(int(sequences.lengths.max()))
    rows = torch.where(steps < sequences.lengths[:, None], sequences.offsets[:-1, None] + steps, -1)
    columns = {name: sequences.take(name, rows) for name in model.inlet.reads}
    ragged = sequences.lengths if (rows < 0).any() else None
    read, _ = model.read(columns, state_of(begin), lengths=ragged)
    return rows, read.after(read_of(begin))


def told(
    sequences: Sequences, expected: Tensor, surprise: Tensor, targets: Sequence[str], id: str | None
) -> dict[str, Any]:
    """A table of new rows: the id, the time, and for each of the targets what came, what had been expected of it and
    its surprise, [N, targets]."""
    steps = torch.arange(sequences.steps).double()
    times = steps if sequences.time is None else sequences.values[sequences.time.name]
    found = stamps(sequences.ids, sequences.lengths, times, sequences.time, id)
    values = horizon.values(sequences)
    for n, name in enumerate(targets):
        behind = "" if len(targets) == 1 else f"-{name}"
        found[name] = values[:, n].numpy()
        found[f"expected{behind}"], found[f"surprise{behind}"] = expected[:, n].numpy(), surprise[:, n].numpy()
    return found


def expect_later(sequences: Sequences, behind: Tensor) -> None:
    """Raises InputError if series begin no later than what was read of them before, `behind` [S]."""
    if sequences.time is None:
        return
    times = sequences.values[sequences.time.name]
    for n, before in enumerate(behind.tolist()):
        if sequences.lengths[n] and not times[sequences.offsets[n]] > before:
            raise InputError(
                f"series {sequences.ids[n]!r} begins no later than what was read of it before; expected new rows"
            )


def expect_enough(sequences: Sequences, steps: int) -> None:
    """Raises InputError if targets are no numbers, or no series is longer than a horizon of so many steps."""
    targets = sequences.of_role("target")
    if wrong := [field.name for field in targets if field.kind != "number"]:
        raise InputError(f"column {wrong[0]!r} holds categories; a forecaster's target is a number")
    longest = int(sequences.lengths.max()) if len(sequences) else 0
    if longest <= steps:
        raise InputError(f"the longest series has {longest} steps; a horizon of {steps} needs more")
