"""The loss of forecasts from all steps of a batch, in one pass; in turns the model may read what it has said itself."""

from __future__ import annotations

import torch
from torch import Tensor

from recurra.data.reading import Batch
from recurra.data.sequences import Sequences
from recurra.state import State
from recurra.tasks import horizon
from recurra.tasks.feeding import Feed, turns
from recurra.tasks.model import Model, Read, joined


def loss(model: Model, sequences: Sequences, batch: Batch, state: State | None, feed: Feed) -> tuple[Tensor, State]:
    """The mean over all origins and steps of the horizon, [], and the state after the last."""
    read, after = _read(model, sequences, batch, state, feed)
    raw = horizon.raw_after(model, read, sequences, batch.rows)
    truth = horizon.truth(model, sequences, batch.rows)
    return model.head.loss(raw, truth, None, read.around(truth.shape[-1])), after


def _read(model: Model, sequences: Sequences, batch: Batch, state: State | None, feed: Feed) -> tuple[Read, State]:
    steps, found, after = batch.rows.shape[1], list[Read](), state
    ragged = bool((batch.lengths < steps).any())
    for begin, end, own in turns(feed, steps):
        for first, last in [(t, t + 1) for t in range(begin, end)] if own else [(begin, end)]:
            columns = {name: column[:, first:last] for name, column in batch.columns.items()}
            if own:
                columns |= _own(model, sequences, batch, found[-1].last, first)
            lengths = (batch.lengths - first).clamp(0, last - first) if ragged else None
            read, after = model.read(columns, after, resets=batch.resets[:, first:last], lengths=lengths)
            found.append(read)
    assert after is not None
    return joined(found, 1), after


def _own(model: Model, sequences: Sequences, batch: Batch, read: Read, step: int) -> dict[str, Tensor]:
    """The targets of a step as they were expected one step before, [B, 1, *width] each; where a sequence begins as they
    are. Gradients flow through what was expected."""
    rows, fields = batch.rows[:, step : step + 1], sequences.of_role("target")
    known = {name: sequences.take(name, rows)[:, :, None] for name in horizon.reads_ahead(model)}
    raw = horizon.raw(model, read, known, 1)
    said = model.head.predict(raw, read.around(raw.shape[-2]))[:, :, 0]
    truth = horizon.values(sequences, rows).to(said.dtype)
    said = torch.where(batch.resets[:, step : step + 1, None], truth, said)
    return horizon.columns(fields, said)
