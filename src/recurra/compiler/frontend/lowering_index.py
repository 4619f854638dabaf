"""Picking elements and putting them in place, by numbers known now or found in a time step; see `lowering`.

Where the positions are known, what is picked is made of slices. Where they are values of the step, every element is
compared with the position and one is selected: selected, not multiplied, so that NaN elsewhere does no harm.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from recurra.compiler.frontend.graph import Graph, Node
from recurra.compiler.frontend.lowering import LOWERING, boolean, each, real, rule
from recurra.compiler.frontend.lowering_shapes import _axis
from recurra.compiler.frontend.values import Pair, Value


# --- positions known now ----------------------------------------------------------------------------------------------
def take(g: Graph, x: Node, axis: int, positions: Iterable[int]) -> Node:
    """Elements along an axis."""
    if x.is_bool:
        return boolean(g, take(g, real(g, x), axis, positions))
    return g.concat([_stretch(g, x, axis, *run) for run in _runs(list(positions))], axis)


def _runs(positions: list[int]) -> list[tuple[int, int, int]]:
    """(first, step, count) of evenly spaced stretches, steps 0 or more."""
    if not positions:
        raise ValueError("nothing is picked")
    runs: list[tuple[int, int, int]] = []
    for at in positions:
        first, step, count = runs[-1] if runs else (0, 0, 0)
        if count == 1 and at >= first:
            runs[-1] = first, at - first, 2
        elif count > 1 and at == first + count * step:
            runs[-1] = first, step, count + 1
        else:
            runs.append((at, 0, 1))
    # Two elements further apart than one come as cheaply by themselves.
    pairs = [[run] if run[1] < 2 or run[2] > 2 else [(run[0], 0, 1), (run[0] + run[1], 0, 1)] for run in runs]
    return [run for pair in pairs for run in pair]


def _stretch(g: Graph, x: Node, axis: int, first: int, step: int, count: int) -> Node:
    """`count` elements from `first` on, `step` apart."""

    def block(start: int, size: int) -> Node:
        starts = tuple(start if i == axis else 0 for i in range(len(x.shape)))
        return g.slice(x, starts, tuple(size if i == axis else n for i, n in enumerate(x.shape)))

    before, after = x.shape[:axis], x.shape[axis + 1 :]
    if step == 0:
        return g.expand(block(first, 1), (*before, count, *after))
    if step == 1:
        return block(first, count)
    if first + count * step > x.shape[axis]:
        return g.concat([_stretch(g, x, axis, first, step, count - 1), block(first + (count - 1) * step, 1)], axis)
    rows = g.reshape(block(first, count * step), (*before, count, step, *after))
    starts = (0,) * len(rows.shape)
    return g.reshape(g.slice(rows, starts, (*before, count, 1, *after)), (*before, count, *after))


def pick(g: Graph, sources: Sequence[Value], positions: Tensor) -> Value:
    """Elements of sources, flattened one after another, at `positions`, in the shape of these."""
    if any(isinstance(source, Pair) for source in sources):
        parts = [(s.real, s.imag) if isinstance(s, Pair) else (s, g.constant(0.0)) for s in sources]
        both = ([g.expand(p, s.shape) for p, s in zip(part, sources, strict=True)] for part in zip(*parts, strict=True))
        return Pair(*(_picked(g, part, positions) for part in both))
    return _picked(g, list(sources), positions)  # type: ignore[arg-type]


def _picked(g: Graph, sources: list[Node], positions: Tensor) -> Node:
    if all(source.is_bool for source in sources):
        return boolean(g, _picked(g, [real(g, source) for source in sources], positions))
    flat = [g.reshape(real(g, source), (source.size,)) for source in sources]
    pieces, first = [], [sum(source.size for source in sources[:i]) for i in range(len(sources))]
    places = positions.flatten().contiguous()
    homes = torch.bucketize(places, torch.tensor(first), right=True) - 1
    at = places - torch.tensor(first)[homes]
    start = 0
    for end in range(1, len(homes) + 1):
        if end == len(homes) or homes[end] != homes[start]:
            pieces.append(take(g, flat[int(homes[start])], 0, at[start:end].tolist()))
            start = end
    if not pieces:
        raise ValueError("nothing is picked")
    return g.reshape(g.concat(pieces, 0), tuple(positions.shape))


def _places(x: Value) -> Tensor:
    """The position of every element of a value."""
    return torch.arange(math.prod(x.shape)).view(x.shape)


# --- positions found in a time step -----------------------------------------------------------------------------------
def iota(g: Graph, n: int) -> Node:
    """0, 1, ... n - 1."""
    return g.table(range(n), (n,))


def number(g: Graph, index: Any) -> Node:
    """Positions as a value of the graph."""
    return as_values(g, index) if isinstance(index, Tensor) else real(g, index)


def as_values(g: Graph, numbers: Tensor) -> Node:
    """Numbers known now as a value of the graph."""
    return g.table(numbers.flatten().tolist(), tuple(numbers.shape))


def chosen(g: Graph, x: Value, index: Node) -> Value:
    """x [..., n] at index [..., m]: [..., m]; NaN where there is no such element."""
    n, m = x.shape[-1], index.shape[-1]
    index = g.reshape(index, (*index.shape[:-1], m, 1))
    hit = g.pointwise("eq", index, iota(g, n))
    known = g.reduce("max", real(g, hit), (len(hit.shape) - 1,))

    def one(part: Node) -> Node:
        if part.is_bool:
            return boolean(g, one(real(g, part)))
        rows = g.reshape(part, (*part.shape[:-1], 1, n))
        found = g.pointwise("where", hit, rows, g.constant(0.0))
        total = g.reduce("sum", found, (len(found.shape) - 1,))
        return g.pointwise("where", boolean(g, known), total, g.constant(math.nan))

    return each(x, one)


def _last(g: Graph, x: Value, axis: int) -> Value:
    """With an axis moved to the end."""
    order = [i for i in range(len(x.shape)) if i != axis] + [axis]
    return each(x, lambda node: g.permute(node, tuple(order)))


def _back(g: Graph, x: Value, axis: int) -> Value:
    """With the last axis moved to `axis`."""
    order = list(range(len(x.shape) - 1))
    order.insert(axis, len(x.shape) - 1)
    return each(x, lambda node: g.permute(node, tuple(order)))


# --- rules: picking ---------------------------------------------------------------------------------------------------
@rule("index", by_number=True)
def _index(g: Graph, x: Value, indices: list[Any]) -> Value:
    given = [i for i, index in enumerate(indices) if index is not None]
    if all(isinstance(indices[i], Tensor) for i in given):
        return pick(g, [x], _places(x)[tuple(slice(None) if i is None else i for i in indices)])
    if any(not isinstance(indices[i], Tensor) and indices[i].is_bool for i in given):
        raise ValueError("how many elements a mask picks depends on values: use torch.where")
    first = given[0] if given == list(range(given[0], given[-1] + 1)) else 0
    others = [i for i in range(len(x.shape)) if i not in given]
    sizes = [x.shape[i] for i in given]
    order = tuple(others + given)
    flat = each(x, lambda node: g.reshape(g.permute(node, order), (*(x.shape[i] for i in others), math.prod(sizes))))
    at = g.constant(0.0)
    for i, size in zip(given, sizes, strict=True):
        before = g.pointwise("mul", at, g.constant(float(size)))
        at = g.pointwise("add", before, _wrapped(g, number(g, indices[i]), size))
    found = chosen(g, flat, g.reshape(at, (at.size,)))
    where = sum(i < first for i in others)
    order = (*range(where), len(others), *range(where, len(others)))
    shape = [x.shape[i] for i in others]
    shape[where:where] = at.shape
    return each(found, lambda node: g.reshape(g.permute(node, order), tuple(shape)))


def _wrapped(g: Graph, index: Node, size: int) -> Node:
    """Positions counted from the end counted from the start."""
    below = g.pointwise("lt", index, g.constant(0.0))
    return g.pointwise("where", below, g.pointwise("add", index, g.constant(float(size))), index)


@rule("index_select", by_number=True)
def _index_select(g: Graph, x: Value, axis: int, index: Any) -> Value:
    indices = [None] * _axis(axis, len(x.shape)) + [index]
    return _index(g, x, indices) if x.shape else x


@rule("embedding", by_number=True)
def _embedding(g: Graph, table: Value, index: Any, *_: Any) -> Value:
    return _index(g, table, [index])


@rule("take", by_number=True)
def _take(g: Graph, x: Value, index: Any) -> Value:
    return _index(g, each(x, lambda node: g.reshape(node, (node.size,))), [index])


@rule("gather", by_number=True)
def _gather(g: Graph, x: Value, axis: int, index: Any, sparse_grad: bool = False) -> Value:  # noqa: ARG001
    axis = _axis(axis, len(x.shape))
    if isinstance(index, Tensor):
        return pick(g, [x], torch.gather(_places(x), axis, index))
    sizes = tuple(n if i == axis else index.shape[i] for i, n in enumerate(x.shape))
    x = each(x, lambda node: g.slice(node, (0,) * len(sizes), sizes))
    return _back(g, chosen(g, _last(g, x, axis), number(g, _last(g, index, axis))), axis)


@rule("diagonal")
def _diagonal(g: Graph, x: Value, offset: int = 0, a: int = 0, b: int = 1) -> Value:
    return pick(g, [x], _places(x).diagonal(offset, a, b))


@rule("unfold")
def _unfold(g: Graph, x: Value, axis: int, size: int, step: int) -> Value:
    return pick(g, [x], _places(x).unfold(axis, size, step))


@rule("roll")
def _roll(g: Graph, x: Value, shifts: Any, axes: Any = ()) -> Value:
    axes = axes if isinstance(axes, list) else [axes] if axes != () else []
    shifts = shifts if isinstance(shifts, list) else [shifts]
    if not axes:
        return pick(g, [x], torch.roll(_places(x), shifts))
    for shift, axis in zip(shifts, axes, strict=True):
        at, size = _axis(axis, len(x.shape)), x.shape[_axis(axis, len(x.shape))]
        positions = [(i - shift) % size for i in range(size)]
        x = each(x, lambda node, at=at, positions=positions: take(g, node, at, positions))
    return x


# --- rules: putting in place ------------------------------------------------------------------------------------------
def placed(g: Graph, x: Value, positions: Tensor, values: Value) -> Value:
    """x with `values` at positions known now; the last counts where two meet."""
    home = _places(x).flatten()
    home[positions.flatten()] = home.numel() + torch.arange(positions.numel())
    return pick(g, [x, values], home.view(x.shape))


def added(g: Graph, x: Value, positions: Tensor, values: Value) -> Value:
    """x with `values` added at positions known now, where several may meet."""
    left = list(enumerate(positions.flatten().tolist()))
    zero = g.expand(g.constant(0.0), (1,))
    while left:
        home, later = torch.zeros(math.prod(x.shape), dtype=torch.int64), []
        for source, target in left:
            if home[target]:
                later.append((source, target))
            else:
                home[target] = 1 + source
        x = LOWERING["add"](g, x, pick(g, [zero, values], home.view(x.shape)))
        left = later
    return x


def _spread(g: Graph, values: Any, shape: tuple[int, ...]) -> Value:
    """A number or a value in a larger shape."""
    from_number = values if isinstance(values, Node | Pair) else g.constant(float(values))
    return each(from_number, lambda node: g.expand(node, shape))


def _put(g: Graph, x: Value, axis: int, index: Node, values: Value, add: bool) -> Value:
    """x with values [..., m] put, or added, at positions [..., m] along an axis, found in the step. The positions have
    as many elements along the other axes as x."""
    x, index, values = _last(g, x, axis), _last(g, index, axis), _last(g, values, axis)
    n, m = x.shape[-1], index.shape[-1]
    for i in range(m):

        def column(node: Node, i: int = i) -> Node:
            return take(g, node, len(node.shape) - 1, [i])

        hit = g.pointwise("eq", column(number(g, index)), iota(g, n))
        value = each(values, column)
        x = LOWERING["where"](g, hit, LOWERING["add"](g, x, value) if add else value, x)
    return _back(g, x, axis)


def _scattered(g: Graph, x: Value, axis: int, index: Any, values: Any, add: bool) -> Value:
    axis = _axis(axis, len(x.shape))
    if not isinstance(values, Node | Pair):
        values = _spread(g, values, tuple(index.shape))
    sizes = tuple(index.shape)
    values = each(values, lambda node: g.slice(node, (0,) * len(sizes), sizes))
    if isinstance(index, Tensor):
        grid = torch.meshgrid(*(torch.arange(n) for n in sizes), indexing="ij")
        positions = _places(x)[tuple(index if i == axis else at for i, at in enumerate(grid))]
        return (added if add else placed)(g, x, positions, values)
    if any(n != sizes[i] for i, n in enumerate(x.shape) if i != axis):
        raise ValueError("positions that are found in the step, fewer than there are rows")
    return _put(g, x, axis, index, values, add)


@rule("scatter", by_number=True)
def _scatter(g: Graph, x: Value, axis: int, index: Any, values: Any, reduce: str | None = None) -> Value:
    if reduce not in (None, "add"):
        raise ValueError(f"reduce={reduce!r}")
    return _scattered(g, x, axis, index, values, reduce == "add")


@rule("scatter_add", by_number=True)
def _scatter_add(g: Graph, x: Value, axis: int, index: Any, values: Value) -> Value:
    return _scattered(g, x, axis, index, values, True)


@rule("scatter_reduce", by_number=True)
def _scatter_reduce(
    g: Graph, x: Value, axis: int, index: Any, values: Value, reduce: str, include_self: bool = True
) -> Value:
    if reduce != "sum" or not include_self:
        raise ValueError(f"reduce={reduce!r}, include_self={include_self}")
    return _scattered(g, x, axis, index, values, True)


def _along(x: Value, axis: int, index: Tensor) -> Tensor:
    """The positions in x of rows along an axis."""
    return _places(x).index_select(axis, index.flatten())


def _rows(g: Graph, x: Value, axis: int, index: Any, values: Any, add: bool) -> Value:
    axis = _axis(axis, len(x.shape))
    count = math.prod(index.shape)
    shape = tuple(count if i == axis else n for i, n in enumerate(x.shape))
    values = _spread(g, values, shape)
    if isinstance(index, Tensor):
        return (added if add else placed)(g, x, _along(x, axis, index), values)
    at = g.reshape(number(g, index), tuple(count if i == axis else 1 for i in range(len(shape))))
    return _put(g, x, axis, g.expand(at, shape), values, add)


@rule("index_add", by_number=True)
def _index_add(g: Graph, x: Value, axis: int, index: Any, values: Value, alpha: float = 1) -> Value:
    return _rows(g, x, axis, index, LOWERING["mul"](g, values, alpha), True)


@rule("index_copy", "index_fill", by_number=True)
def _index_copy(g: Graph, x: Value, axis: int, index: Any, values: Any) -> Value:
    return _rows(g, x, axis, index, values, False)


@rule("index_put", "_unsafe_index_put", by_number=True)
def _index_put(g: Graph, x: Value, indices: list[Any], values: Value, accumulate: bool = False) -> Value:
    given = [index for index in indices if index is not None]
    if all(isinstance(index, Tensor) for index in given):
        positions = _places(x)[tuple(slice(None) if i is None else i for i in indices)]
        return (added if accumulate else placed)(g, x, positions, _spread(g, values, tuple(positions.shape)))
    first = given[0]
    rest = (1,) * (len(x.shape) - len(first.shape))
    if len(given) == 1 and indices[0] is first and first.is_bool and len(values.shape) <= len(rest):
        value = LOWERING["add"](g, x, values) if accumulate else values
        return LOWERING["where"](g, g.reshape(first, (*first.shape, *rest)), value, x)
    if len(given) > 1 or first.is_bool or len(first.shape) > 1:
        raise ValueError("several positions, or a mask, that are found in the step: use torch.where")
    axis = indices.index(first)
    values = _spread(g, values, (*x.shape[:axis], first.size, *x.shape[axis + 1 :]))
    return _rows(g, x, axis, _wrapped(g, number(g, first), x.shape[axis]), values, accumulate)


@rule("slice_scatter")
def _slice_scatter(
    g: Graph, x: Value, values: Value, axis: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Value:
    axis = _axis(axis, len(x.shape))
    where = (slice(None),) * axis + (slice(start, end, step),)
    return placed(g, x, _places(x)[where], values)


@rule("select_scatter")
def _select_scatter(g: Graph, x: Value, values: Value, axis: int, index: int) -> Value:
    return placed(g, x, _places(x).select(axis, index), values)


@rule("diagonal_scatter")
def _diagonal_scatter(g: Graph, x: Value, values: Value, offset: int = 0, a: int = 0, b: int = 1) -> Value:
    return placed(g, x, _places(x).diagonal(offset, a, b), values)
