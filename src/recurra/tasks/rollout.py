"""A closed loop: what a head says of a step is the next thing that the model reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from recurra import options
from recurra.data.sequences import Field, Sequences
from recurra.state import State
from recurra.tasks import horizon
from recurra.tasks.model import Model
from recurra.tasks.passing import placed, read_of, state_of


@torch.no_grad()
def rollout(
    model: Model,
    place: State,
    fields: Sequence[Field],
    steps: int,
    *,
    known: Mapping[str, Tensor] | None = None,
    static: Mapping[str, Tensor] | None = None,
    samples: int = 0,
    first: Tensor | None = None,
) -> Tensor:
    """Go on by so many steps, each read as if it had come: [samples, S, steps, targets], whose draws are paths, since
    each step is drawn given those before it; with no samples [1, S, steps, targets], the one value that the head names.

    What is known neither ahead nor at all times is missing beyond the end, as the inlet reads what is missing.

    Args:
        place: of S series, as `recurra.tasks.passing` has it.
        fields: of the columns that the model was fitted on.
        known: the columns known ahead, [S, 1, steps, *width] each.
        static: those that are the same at all times, [S, *width] each.
        first: the first few steps, [S, n, targets], which are given rather than said.

    Raises InputError if an argument is out of range.
    """
    options.whole("samples", samples)
    given = 0 if first is None else first.shape[1]
    paths, count = max(1, samples), len(next(iter(place.values())))
    rows = torch.arange(count).repeat(paths)
    place, found = place.rows(rows), []
    columns = {name: value[rows] for name, value in (known or {}).items()}
    whole = {name: value[rows][:, None] for name, value in (static or {}).items()}
    for step in range(options.count("steps", steps)):
        value = (
            first[rows, step][:, None]
            if first is not None and step < given
            else _said(model, place, columns, step, samples)
        )
        found.append(value)
        now = {name: column[:, :, step] for name, column in columns.items()} | whole
        read, state = model.read(_columns(model, fields, value, now), state_of(place))
        place = placed(state, read)
    return torch.cat(found, 1).unflatten(0, (paths, count))


def _said(model: Model, place: State, known: Mapping[str, Tensor], step: int, samples: int) -> Tensor:
    """The next value, [rows, 1, targets]."""
    read = read_of(place)
    ahead = {name: known[name][:, :, step : step + 1] for name in horizon.reads_ahead(model)}
    raw = horizon.raw(model, read, ahead, 1)
    around = read.around(raw.shape[-2])
    value = model.head.sample(raw, 1, around)[0] if samples else model.head.predict(raw, around)
    return value[:, :, 0]


def _columns(model: Model, fields: Sequence[Field], value: Tensor, now: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What the inlet reads of a step, [rows, 1, *width] each: targets, what is known, and nothing of the rest."""
    own = horizon.columns([field for field in fields if field.role == "target"], value)
    by_name = {field.name: field for field in fields}
    return {
        name: own[name] if name in own else now.get(name, _nothing(by_name[name], value)) for name in model.inlet.reads
    }


def _nothing(field: Field, like: Tensor) -> Tensor:
    """A value that is missing, [rows, 1, *width]."""
    shape = (*like.shape[:2], *field.width)
    return like.new_full(shape, torch.nan) if field.kind == "number" else torch.full(shape, -1)


def always(sequences: Sequences) -> State:
    """The columns that are the same at all times, [S, *width] each."""
    last = sequences.offsets[1:] - 1
    return State({field.name: sequences.take(field.name, last) for field in sequences.of_role("static")})
