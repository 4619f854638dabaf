"""The associative scan: every prefix of a sequence combined in O(log T) rounds, in PyTorch operations on any device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from recurra import options
from recurra.errors import InputError


def scan(combine: Callable[[Any, Any], Any], elements: Any, dim: int = 1) -> Any:
    """All prefixes e_1, e_1 * e_2, e_1 * e_2 * e_3, ... of a sequence under an associative operation `*`.

    Differentiable by autograd. Work grows as T, the number of rounds as log T.

    Args:
        combine: takes (earlier, later), two trees shaped like `elements` with the same number of time steps along
            `dim`, and gives their combination, time step by time step. It must be associative; commutative it need
            not be.
        elements: a tensor, or a tree (tuples, lists, dicts) of tensors, with time along `dim`.

    Returns:
        a tree shaped like `elements`; its entry t is the combination of the elements up to and including t.

    Raises:
        InputError: `combine` is no function, or gives another tree, or tensors of other shapes; `elements` holds no
            tensor, or tensors of different lengths.

    Example:

        def affine(earlier, later):  # h -> a h + b, one after the other
            (a, b), (c, d) = earlier, later
            return c * a, c * b + d

        _, h = recurra.scan(affine, (a, b))  # h_t = a_t h_{t-1} + b_t from h = 0

    Source of the scheme: Prefix Sums and Their Applications, Blelloch, 1990.
    """
    options.function("combine", combine)
    options.whole("dim", dim, -64, 64)
    leaves, tree = pytree.tree_flatten(elements)
    if not leaves or not all(isinstance(leaf, Tensor) and -leaf.dim() <= dim < leaf.dim() for leaf in leaves):
        raise InputError(f"elements is {_names(leaves)}; expected a tree of tensors with time along axis {dim}")
    lengths = {leaf.shape[dim] for leaf in leaves}
    if len(lengths) > 1:
        raise InputError(f"elements have lengths {sorted(lengths)} along axis {dim}; expected one length")

    def combined(earlier: list[Tensor], later: list[Tensor]) -> list[Tensor]:
        result = combine(pytree.tree_unflatten(earlier, tree), pytree.tree_unflatten(later, tree))
        flat, shape = pytree.tree_flatten(result)
        if shape != tree:
            raise InputError(f"combine returned {_one_line(shape)}; expected a tree like elements, {_one_line(tree)}")
        if not all(isinstance(new, Tensor) and new.shape == old.shape for new, old in zip(flat, later, strict=True)):
            raise InputError(
                f"combine returned {_names(flat)} from two times {_names(later)}; expected tensors of the same shapes"
            )
        return flat

    return pytree.tree_unflatten(_scan(combined, leaves, dim), tree)


def _scan(combine: Callable[[list[Tensor], list[Tensor]], list[Tensor]], leaves: list[Tensor], dim: int):
    """Pairs first, then the prefixes of the pairs, then the time steps in between."""
    time = leaves[0].shape[dim]
    if time < 2:
        return [leaf.clone() for leaf in leaves]

    def part(which: list[Tensor], start: int, stop: int | None, step: int) -> list[Tensor]:
        return [t[(slice(None),) * (dim % t.dim()) + (slice(start, stop, step),)] for t in which]

    pairs = combine(part(leaves, 0, time - 1, 2), part(leaves, 1, None, 2))
    odd = _scan(combine, pairs, dim)
    before = odd if time % 2 else part(odd, 0, -1, 1)
    even = combine(before, part(leaves, 2, None, 2)) if time > 2 else part(leaves, 0, 0, 1)
    even = [torch.cat([a, b], dim) for a, b in zip(part(leaves, 0, 1, 1), even, strict=True)]
    return [_interleaved(a, b, dim) for a, b in zip(even, odd, strict=True)]


def _interleaved(even: Tensor, odd: Tensor, dim: int) -> Tensor:
    """a_0, b_0, a_1, b_1, ...; `even` may be one longer."""
    n, dim = odd.shape[dim], dim % odd.dim()
    paired = torch.stack([even.narrow(dim, 0, n), odd], dim + 1).flatten(dim, dim + 1)
    return paired if even.shape[dim] == n else torch.cat([paired, even.narrow(dim, n, 1)], dim)


def _one_line(tree: pytree.TreeSpec) -> str:
    return " ".join(str(tree).split())


def _names(leaves: list[Any]) -> str:
    return ", ".join(str(list(v.shape)) if isinstance(v, Tensor) else type(v).__name__ for v in leaves) or "empty"
