"""Which tensors of ours are which of theirs: rules that work both ways."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

from recurra.errors import InputError
from recurra.options import shown


@dataclass(frozen=True)
class Rule:
    """A tensor of ours is, in memory, tensors of theirs, one after the other; or their rows in another order.

    That covers renaming, stacking along the first axis, axes of length one, and heads that lie otherwise.
    """

    ours: str
    theirs: tuple[str, ...]
    shape: tuple[int, ...] | None = None
    """Of each of theirs; by default ours, along the first axis in equal parts."""
    lengths: tuple[int, ...] | None = None
    """Of each of theirs, along the first axis, where they differ; they are read in other lengths, too, that add up."""
    rows: tuple[int, ...] | None = None
    """Which row of theirs, all put below one another, each row of ours is; by default they are in the same order."""

    def their_shapes(self, ours: torch.Size) -> list[tuple[int, ...]]:
        """The shape of each of theirs, from that of ours."""
        parts = len(self.theirs)
        usual = (ours[0] // parts, *ours[1:]) if self.shape is None else self.shape
        return [usual] * parts if self.lengths is None else [(length, *usual[1:]) for length in self.lengths]


def rule(
    ours: str, theirs: str, shape: tuple[int, ...] | None = None, at: tuple[str, str] = ("", ""), **more: Any
) -> Rule:
    """A `Rule` from names, theirs separated by spaces; `at` is put before ours and before each of theirs."""
    return Rule(at[0] + ours, tuple(at[1] + name for name in theirs.split()), shape, **more)


def rules_of(names: Mapping[str, str], at: tuple[str, str]) -> list[Rule]:
    """Rules of names of ours to names of theirs."""
    return [rule(ours, theirs, at=at) for ours, theirs in names.items()]


def interleaved(groups: int, lengths: Iterable[int]) -> tuple[int, ...]:
    """`Rule.rows` where tensors of these lengths are cut into groups each, and the first group of each comes first."""
    rows: list[list[int]] = [[] for _ in range(groups)]
    start = 0
    for length in lengths:
        size = length // groups
        for i in range(groups):
            rows[i] += range(start + i * size, start + (i + 1) * size)
        start += length
    return tuple(row for group in rows for row in group)


def to_ours(rules: Iterable[Rule], theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of `theirs` under our names and in the shapes of `ours`.

    Raises InputError that names a tensor that is missing, has another shape, or is not known.
    """
    result: dict[str, Tensor] = {}
    left = dict(theirs)
    for one in rules:
        shape, parts = ours[one.ours].shape, []
        for name, expected in zip(one.theirs, one.their_shapes(shape), strict=True):
            if name not in left:
                raise InputError(f"the checkpoint holds no tensor {name!r}; is it whole, and of this model_type?")
            part = left.pop(name)
            found = tuple(part.shape)
            if found != expected and (one.lengths is None or found[1:] != expected[1:]):
                raise InputError(
                    f"tensor {name!r} has shape {shown(list(part.shape))}; config.json asks for {list(expected)}"
                )
            parts.append(part.reshape(-1))
        whole = torch.cat(parts) if len(parts) > 1 else parts[0]
        if whole.numel() != shape.numel():
            raise InputError(f"tensors {', '.join(one.theirs)} hold {whole.numel()} numbers; expected {shape.numel()}")
        whole = whole.reshape(shape)
        result[one.ours] = whole if one.rows is None else whole[list(one.rows)]
    if left:
        names = [name[:80] for name in sorted(left)[:3]]
        raise InputError(f"the checkpoint holds tensors that its model_type has no place for: {names}")
    return result


def to_theirs(rules: Iterable[Rule], ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `to_ours`."""
    result: dict[str, Tensor] = {}
    for one in rules:
        whole = ours[one.ours]
        shapes = one.their_shapes(whole.shape)
        if one.rows is not None:
            whole = torch.empty_like(whole).index_copy_(0, torch.tensor(one.rows), whole)
        pieces = whole.reshape(-1).split([prod(shape) for shape in shapes])
        for name, shape, piece in zip(one.theirs, shapes, pieces, strict=True):
            result[name] = piece.reshape(shape).clone()
    return result
