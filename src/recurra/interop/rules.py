"""Which tensors of ours are which of theirs: rules that work both ways."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from recurra.errors import InputError
from recurra.options import shown


@dataclass(frozen=True)
class Rule:
    """A tensor of ours is, in memory, tensors of theirs, one after the other.

    That covers renaming, stacking along the first axis, and axes of length one.
    """

    ours: str
    theirs: tuple[str, ...]
    shape: tuple[int, ...] | None = None
    """Of each of theirs; by default ours, along the first axis in equal parts."""

    def their_shape(self, ours: torch.Size) -> tuple[int, ...]:
        """The shape of each of theirs, from that of ours."""
        return (ours[0] // len(self.theirs), *ours[1:]) if self.shape is None else self.shape


def rule(ours: str, theirs: str, shape: tuple[int, ...] | None = None, at: tuple[str, str] = ("", "")) -> Rule:
    """A `Rule` from names, theirs separated by spaces; `at` is put before ours and before each of theirs."""
    return Rule(at[0] + ours, tuple(at[1] + name for name in theirs.split()), shape)


def to_ours(rules: Iterable[Rule], theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of `theirs` under our names and in the shapes of `ours`.

    Raises InputError that names a tensor that is missing, has another shape, or is not known.
    """
    result: dict[str, Tensor] = {}
    left = dict(theirs)
    for one in rules:
        shape = ours[one.ours].shape
        expected, parts = one.their_shape(shape), []
        for name in one.theirs:
            if name not in left:
                raise InputError(f"the checkpoint holds no tensor {name!r}; is it whole, and of this model_type?")
            part = left.pop(name)
            if tuple(part.shape) != expected:
                raise InputError(
                    f"tensor {name!r} has shape {shown(list(part.shape))}; config.json asks for {list(expected)}"
                )
            parts.append(part.reshape(-1))
        result[one.ours] = (torch.cat(parts) if len(parts) > 1 else parts[0]).reshape(shape)
    if left:
        names = [name[:80] for name in sorted(left)[:3]]
        raise InputError(f"the checkpoint holds tensors that its model_type has no place for: {names}")
    return result


def to_theirs(rules: Iterable[Rule], ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `to_ours`."""
    result: dict[str, Tensor] = {}
    for one in rules:
        shape = one.their_shape(ours[one.ours].shape)
        pieces = ours[one.ours].reshape(-1).split(prod(shape))
        result |= {name: piece.reshape(shape).clone() for name, piece in zip(one.theirs, pieces, strict=True)}
    return result
