"""Writing to part of a tensor: what all tensors become that lie in the same memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from recurra.compiler.frontend.graph import Graph
from recurra.compiler.frontend.lowering import LOWERING
from recurra.compiler.frontend.lowering_index import pick, placed
from recurra.compiler.frontend.values import Value


def places(tensor: Tensor) -> Tensor:
    """Where in its memory each element of a tensor lies."""
    count = tensor.untyped_storage().nbytes() // tensor.element_size()
    return torch.arange(count).as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())


def share_memory(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors lie in the same memory, if not at the same places."""
    return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr() != 0


def seen(graph: Graph, value: Value, of: Tensor, view: Tensor) -> Value:
    """The value of a view of a tensor whose value is known, however the view came about."""
    home = _home(of)[places(view)]
    if (home < 0).any():
        raise ValueError("a view of more than the tensor it is made of")
    return pick(graph, [value], home)


def written(
    graph: Graph, target: Tensor, new: Value, others: Iterable[tuple[Tensor, Value]]
) -> Iterator[tuple[Tensor, Value]]:
    """`target` and all others in its memory with their values after `new`, a value that fits, is written to it."""
    kind = "_to_copy" if target.is_complex() or not target.is_floating_point() else "clone"
    new = LOWERING["expand"](graph, LOWERING[kind](graph, new, dtype=target.dtype), list(target.shape))
    home = _home(target)
    yield target, new
    for other, value in others:
        if other is target or not share_memory(other, target):
            continue
        if other.dtype != target.dtype or other.is_conj() != target.is_conj():
            raise ValueError("writing to a complex tensor by its parts, or through its conjugate")
        found = home[places(other)].flatten()
        hit = (found >= 0).nonzero().flatten()
        if len(hit):
            yield other, placed(graph, value, hit, pick(graph, [new], found[hit]))


def _home(tensor: Tensor) -> Tensor:
    """For every place in the memory of a tensor, which of its elements lies there; -1 for none."""
    home = torch.full((tensor.untyped_storage().nbytes() // tensor.element_size(),), -1)
    home[places(tensor).flatten()] = torch.arange(tensor.numel())
    return home
