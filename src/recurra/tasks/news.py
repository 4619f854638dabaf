"""What new rows say of the forecasts that were made before them."""

from __future__ import annotations

import torch
from torch import Tensor

from recurra.data.sequences import Sequences
from recurra.state import State
from recurra.tasks import horizon
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
