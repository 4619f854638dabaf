"""Which tensors of ours are which of theirs: rules that work both ways."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from recurra.errors import InputError


@dataclass(frozen=True)
class Rule:
    """Tensors of ours, one after the other in memory, are tensors of theirs, one after the other.

    That covers renaming, stacking along the first axis, cutting along it, and axes of length one.
    """

    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    shape: tuple[int, ...] | None = None
    """Of each of theirs; by default what ours have together, along the first axis in equal parts."""

    def their_shape(self, ours: list[tuple[int, ...]]) -> tuple[int, ...]:
        """The shape of each of theirs, from those of ours."""
        rows = sum(shape[0] for shape in ours) // len(self.theirs)
        return (rows, *ours[0][1:]) if self.shape is None else self.shape


def rule(ours: str, theirs: str, shape: tuple[int, ...] | None = None, at: tuple[str, str] = ("", "")) -> Rule:
    """A `Rule` from names separated by spaces; `at` is put before each of ours and of theirs."""
    return Rule(tuple(at[0] + name for name in ours.split()), tuple(at[1] + name for name in theirs.split()), shape)


def to_ours(rules: Iterable[Rule], theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of `theirs` under our names and in the shapes of `ours`.

    Raises InputError that names a tensor that is missing, has another shape, or is not known.
    """
    result: dict[str, Tensor] = {}
    left = dict(theirs)
    for one in rules:
        shapes = [tuple(ours[name].shape) for name in one.ours]
        expected, parts = one.their_shape(shapes), []
        for name in one.theirs:
            if name not in left:
                raise InputError(f"the checkpoint holds no tensor {name!r}; is it whole, and of this model_type?")
            part = left.pop(name)
            if tuple(part.shape) != expected:
                raise InputError(f"tensor {name!r} has shape {list(part.shape)}; config.json asks for {list(expected)}")
            parts.append(part.reshape(-1))
        flat = torch.cat(parts) if len(parts) > 1 else parts[0]
        pieces = flat.split([prod(shape) for shape in shapes])
        pieces = pieces if len(pieces) == 1 else [piece.clone() for piece in pieces]
        result |= {name: piece.reshape(shape) for name, piece, shape in zip(one.ours, pieces, shapes, strict=True)}
    if left:
        raise InputError(f"the checkpoint holds tensors that its model_type has no place for: {sorted(left)[:5]}")
    return result


def to_theirs(rules: Iterable[Rule], ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `to_ours`."""
    result: dict[str, Tensor] = {}
    for one in rules:
        tensors = [ours[name] for name in one.ours]
        shape = one.their_shape([tuple(tensor.shape) for tensor in tensors])
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        pieces = flat.split(prod(shape))
        result |= {name: piece.reshape(shape).clone() for name, piece in zip(one.theirs, pieces, strict=True)}
    return result
