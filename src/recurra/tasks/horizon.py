"""The steps that follow each step: what is known of them, what came, and what a model says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from recurra.data.sequences import Field, Sequences
from recurra.tasks.inlet import channels, numbers
from recurra.tasks.model import Model, Outlook, Read


def outlook(model: Model) -> Outlook:
    """That of a model that looks ahead."""
    assert isinstance(model.outlook, Outlook)
    return model.outlook


def reads_ahead(model: Model) -> list[str]:
    """Names of the columns that are known ahead."""
    known = outlook(model).known
    return [] if known is None else known.reads


def truth(model: Model, sequences: Sequences, rows: Tensor) -> Tensor:
    """The targets that follow flat rows [...]: [..., horizon, targets]."""
    fields, steps = sequences.of_role("target"), outlook(model).horizon
    return numbers(fields, {field.name: sequences.ahead(field.name, rows, steps) for field in fields}, rows.dim() + 1)


def onwards(sequences: Sequences, name: str, rows: Tensor, steps: int) -> Tensor:
    """[..., steps, *width]: a column at each flat row [...] and those that follow it in its sequence."""
    here = sequences.take(name, rows).unsqueeze(rows.dim())
    return torch.cat([here, sequences.ahead(name, rows, steps - 1)], rows.dim())


def came(model: Model, sequences: Sequences, rows: Tensor) -> Tensor:
    """The targets at flat rows [...] and of those that follow: [..., horizon, targets]."""
    fields, steps = sequences.of_role("target"), outlook(model).horizon
    return numbers(fields, {f.name: onwards(sequences, f.name, rows, steps) for f in fields}, rows.dim() + 1)


def columns(targets: Sequence[Field], value: Tensor) -> dict[str, Tensor]:
    """Target columns [..., *width] of their values [..., targets], the inverse of `numbers`."""
    parts = value.split([channels(field) for field in targets], -1)
    return {f.name: part.reshape(*value.shape[:-1], *f.width) for f, part in zip(targets, parts, strict=True)}


def values(sequences: Sequences, rows: Tensor | None = None) -> Tensor:
    """The targets of flat rows [...], by default of all: [..., targets]."""
    rows = torch.arange(sequences.steps) if rows is None else rows
    fields = sequences.of_role("target")
    return numbers(fields, {field.name: sequences.take(field.name, rows) for field in fields}, rows.dim())


def raw(model: Model, read: Read, known: Mapping[str, Tensor], steps: int | None = None) -> Tensor:
    """[B, T, steps, targets, size], of the whole horizon or of its first few steps."""
    return outlook(model)(read.y, known or None, steps).unflatten(-1, (-1, model.head.size))


def raw_after(model: Model, read: Read, sequences: Sequences, rows: Tensor) -> Tensor:
    """[B, T, horizon, targets, size] of what had been read at flat rows [B, T], and what is known of those that follow.

    Each row is ahead of many others, and is encoded once for all of them.
    """
    look = outlook(model)
    if look.known is None:
        return raw(model, read, {})
    which, place = sequences.following(rows, look.horizon).unique(return_inverse=True)
    encoded = look.known({name: sequences.take(name, which) for name in look.known.reads}, which.shape)
    found = look.raw(read.y, nn.functional.embedding(place, encoded), look.horizon)
    return found.unflatten(-1, (-1, model.head.size))
