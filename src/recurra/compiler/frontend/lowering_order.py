"""Largest and smallest, running sums and maxima, and what is in which place when sorted; see `lowering`.

Gradients go where the values come from. Running values are taken by doubling. Places are found by counting, for every
element, those that come before it: the square of the length in comparisons, all at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from recurra.compiler.frontend.graph import Graph, Node
from recurra.compiler.frontend.lowering import LOWERING, add, each, mul, real, rule
from recurra.compiler.frontend.lowering_index import _back, _last, as_values, chosen, iota, take
from recurra.compiler.frontend.lowering_shapes import _axes, _axis, reduced
from recurra.compiler.frontend.values import Value


def _neg(g: Graph, x: Node) -> Node:
    return g.pointwise("neg", x)


def _is_nan(g: Graph, x: Node) -> Node:
    return g.pointwise("not", g.pointwise("eq", x, x))


def _first(g: Graph, hit: Node) -> Node:
    """The first place along the last axis where a condition holds, [..., 1]; the last place if there is none."""
    n = hit.shape[-1]
    places = g.pointwise("where", hit, _neg(g, iota(g, n)), g.constant(1.0 - n))
    return _neg(g, reduced(g, "max", places, -1, True))


# --- the largest and the smallest -------------------------------------------------------------------------------------
def _place_of_largest(g: Graph, x: Node) -> Node:
    """Where along the last axis the largest is, [..., 1]: NaN if there is one, else the first of those alike."""
    hit = g.pointwise("eq", x, reduced(g, "max", x, -1, True))
    return _first(g, g.pointwise("or", hit, _is_nan(g, x)))


def _largest(g: Graph, x: Node, axis: int | None = None, keepdim: bool = False, sign: float = 1) -> Any:
    x = real(g, x)
    if axis is None:
        return _largest(g, g.reshape(x, (x.size,)), 0, sign=sign)[0]
    if not x.shape:
        return [x, g.constant(0.0)]
    axis = _axis(axis, len(x.shape))
    rows = _last(g, x, axis)
    place = _place_of_largest(g, mul(g, rows, sign))  # type: ignore[arg-type]
    found = [_back(g, part, axis) for part in (chosen(g, rows, place), place)]
    return found if keepdim else [_without(g, part, axis) for part in found]


def _without(g: Graph, x: Value, axis: int) -> Value:
    """Without an axis of length 1."""
    return each(x, lambda node: g.reshape(node, (*node.shape[:axis], *node.shape[axis + 1 :])))


rule("max")(_largest)
rule("min")(lambda g, x, axis=None, keepdim=False: _largest(g, x, axis, keepdim, -1))


@rule("amin")
def _amin(g: Graph, x: Node, axes: Any = None, keepdim: bool = False) -> Node:
    return _neg(g, reduced(g, "max", _neg(g, real(g, x)), axes, keepdim))


@rule("aminmax")
def _aminmax(g: Graph, x: Node, dim: int | None = None, keepdim: bool = False) -> list[Node]:
    return [_amin(g, x, dim, keepdim), reduced(g, "max", real(g, x), dim, keepdim)]


@rule("argmax")
def _argmax(g: Graph, x: Node, axis: int | None = None, keepdim: bool = False, sign: float = 1) -> Value:
    x = real(g, x)
    if axis is None:
        place = _place_of_largest(g, mul(g, g.reshape(x, (x.size,)), sign))  # type: ignore[arg-type]
        return g.reshape(place, (1,) * len(x.shape) if keepdim else ())
    return _largest(g, mul(g, x, sign), axis, keepdim)[1]  # type: ignore[arg-type]


rule("argmin")(lambda g, x, axis=None, keepdim=False: _argmax(g, x, axis, keepdim, -1))


# --- products and running values --------------------------------------------------------------------------------------
@rule("prod")
def _prod(g: Graph, x: Value, axis: int | None = None, keepdim: bool = False, **_: Any) -> Value:
    rank = len(x.shape)
    axes = _axes(axis, rank)
    x = each(x, lambda node: real(g, node))
    if axis is None:
        rows = each(x, lambda node: g.reshape(node, (node.size,)))
    else:
        rows = _last(g, x, axes[0]) if rank else each(x, lambda node: g.reshape(node, (1,)))
    while (n := rows.shape[-1]) > 1:
        half = n // 2
        first, second, rest = (_part(g, rows, range(*ends)) for ends in ((0, half), (half, 2 * half), (n - n % 2, n)))
        product = mul(g, first, second)
        rows = LOWERING["cat"](g, [product, rest], -1) if rest is not None else product
    kept = tuple(1 if i in axes else n for i, n in enumerate(x.shape))
    shape = kept if keepdim else tuple(n for i, n in enumerate(kept) if i not in axes)
    return each(rows, lambda node: g.reshape(node, shape))


def _part(g: Graph, x: Value, places: range) -> Any:
    """Some places along the last axis; None for none."""
    return each(x, lambda node: take(g, node, len(node.shape) - 1, places)) if places else None


Running = list[Value]
"""Values that run along their last axis together."""


def _running(g: Graph, values: Running, combine: Callable[[Running, Running], Running]) -> Running:
    """What `combine(earlier, later)` comes to over everything up to each place along the last axis."""
    n, step = values[0].shape[-1], 1
    while step < n:
        earlier = [_part(g, value, range(n - step)) for value in values]
        later = [_part(g, value, range(step, n)) for value in values]
        both = zip(values, combine(earlier, later), strict=True)
        values = [LOWERING["cat"](g, [_part(g, value, range(step)), new], -1) for value, new in both]
        step *= 2
    return values


def _run_along(g: Graph, x: Value, axis: int, combine: Callable[[Value, Value], Value]) -> Value:
    if not x.shape:
        return x
    axis = _axis(axis, len(x.shape))
    rows = _last(g, each(x, lambda node: real(g, node)), axis)
    return _back(g, _running(g, [rows], lambda a, b: [combine(a[0], b[0])])[0], axis)


rule("cumsum")(lambda g, x, axis, **_: _run_along(g, x, axis, lambda a, b: add(g, a, b)))
rule("cumprod")(lambda g, x, axis, **_: _run_along(g, x, axis, lambda a, b: mul(g, a, b)))
rule("logcumsumexp")(lambda g, x, axis: _run_along(g, x, axis, lambda a, b: _log_of_sum(g, a, b)))


def _log_of_sum(g: Graph, a: Any, b: Any) -> Node:
    """log(e^a + e^b)."""
    apart = g.pointwise("where", g.pointwise("eq", a, b), g.constant(0.0), g.pointwise("sub", a, b))
    rest = g.pointwise("log1p", g.pointwise("exp", _neg(g, g.pointwise("abs", apart))))
    value = g.pointwise("add", g.pointwise("maximum", a, b), rest)
    return g.given(value, *((x, g.pointwise("exp", g.pointwise("sub", x, value))) for x in (a, b)))


@rule("cummax")
def _cummax(g: Graph, x: Node, axis: int, op: str = "le") -> list[Value]:
    """The largest so far, and where it is: the last of those alike; NaN from the first one on."""
    if not x.shape:
        return [x, g.constant(0.0)]
    axis = _axis(axis, len(x.shape))
    rows = _last(g, real(g, x), axis)

    def combine(earlier: list[Any], later: list[Any]) -> Running:
        old, new = earlier[0], later[0]
        reached = g.pointwise("le", *((old, new) if op == "le" else (new, old)))
        instead = g.pointwise("or", _is_nan(g, new), reached)
        return [LOWERING["where"](g, instead, b, a) for a, b in zip(earlier, later, strict=True)]

    places = g.expand(iota(g, rows.shape[-1]), rows.shape)
    return [_back(g, value, axis) for value in _running(g, [rows, places], combine)]


rule("cummin")(lambda g, x, axis: _cummax(g, x, axis, "ge"))


# --- sorting ----------------------------------------------------------------------------------------------------------
def _ranks(g: Graph, x: Node, descending: bool) -> Node:
    """How many come before each element along the last axis: NaN counts as the largest, and those alike keep their
    order."""
    n, last = x.shape[-1], len(x.shape) - 1
    this, other = (g.reshape(x, (*x.shape[:-1], *shape)) for shape in ((n, 1), (1, n)))
    small, large = (other, this) if not descending else (this, other)
    nan = [_is_nan(g, y) for y in (small, large)]
    before = g.pointwise("and", g.pointwise("not", nan[0]), g.pointwise("or", g.pointwise("lt", small, large), nan[1]))
    alike = g.pointwise("or", g.pointwise("eq", this, other), g.pointwise("and", *nan))
    places = iota(g, n)
    earlier = g.pointwise("lt", g.reshape(places, (1, n)), g.reshape(places, (n, 1)))
    return g.reduce("sum", real(g, g.pointwise("or", before, g.pointwise("and", alike, earlier))), (last + 1,))


def _at_ranks(g: Graph, x: Node, axis: int, wanted: Tensor, descending: bool) -> list[Value]:
    """The elements of some ranks along an axis, and where they are."""
    if not x.shape:
        x = g.reshape(x, (1,))
        return [g.reshape(part, ()) for part in _at_ranks(g, x, 0, wanted, descending)]  # type: ignore[arg-type]
    axis = _axis(axis, len(x.shape))
    rows = _last(g, real(g, x), axis)
    assert isinstance(rows, Node)
    n, m = rows.shape[-1], len(wanted)
    ranks = g.reshape(_ranks(g, rows, descending), (*rows.shape[:-1], 1, n))
    hit = g.pointwise("eq", ranks, g.reshape(iota(g, n) if m == n else as_values(g, wanted), (m, 1)))
    last = len(hit.shape) - 1
    found = []
    for values in (g.reshape(rows, (*rows.shape[:-1], 1, n)), iota(g, n)):
        found.append(g.reduce("sum", g.pointwise("where", hit, values, g.constant(0.0)), (last,)))
    return [_back(g, part, axis) for part in found]


@rule("sort")
def _sort(g: Graph, x: Node, axis: int = -1, descending: bool = False, stable: bool | None = None) -> list[Value]:  # noqa: ARG001
    n = x.shape[_axis(axis, len(x.shape))] if x.shape else 1
    return _at_ranks(g, x, axis, torch.arange(n), descending)


@rule("topk")
def _topk(g: Graph, x: Node, k: int, axis: int = -1, largest: bool = True, ordered: bool = True) -> list[Value]:  # noqa: ARG001
    return _at_ranks(g, x, axis, torch.arange(k), largest)


@rule("kthvalue")
def _kthvalue(g: Graph, x: Node, k: int, axis: int = -1, keepdim: bool = False) -> list[Value]:
    found = _at_ranks(g, x, axis, torch.tensor([k - 1]), False)
    return found if keepdim or not x.shape else [_without(g, part, _axis(axis, len(x.shape))) for part in found]


@rule("median")
def _median(g: Graph, x: Node, axis: int | None = None, keepdim: bool = False) -> Any:
    """The lower of the two in the middle; NaN if there is one."""
    if axis is None:
        return _median(g, g.reshape(x, (x.size,)), 0)[0]
    if not x.shape:
        return [x, g.constant(0.0)]
    axis = _axis(axis, len(x.shape))
    middle = torch.tensor([(x.shape[axis] - 1) // 2])
    place = _last(g, _at_ranks(g, x, axis, middle, False)[1], axis)
    rows = _last(g, real(g, x), axis)
    assert isinstance(rows, Node)
    nan = _is_nan(g, rows)
    place = LOWERING["where"](g, reduced(g, "max", real(g, nan), -1, True), _first(g, nan), place)
    found = [_back(g, part, axis) for part in (chosen(g, rows, place), place)]
    return found if keepdim else [_without(g, part, axis) for part in found]


@rule("bucketize")
def _bucketize(g: Graph, x: Node, boundaries: Node, out_int32: bool = False, right: bool = False) -> Node:  # noqa: ARG001
    x = g.reshape(real(g, x), (*x.shape, 1))
    ahead = g.pointwise("lt" if right else "le", x, boundaries)  # of none if x is NaN
    return g.reduce("sum", real(g, g.pointwise("not", ahead)), (len(x.shape) - 1,))


@rule("searchsorted")
def _searchsorted(
    g: Graph, boundaries: Node, x: Any, out_int32: bool = False, right: bool = False, side: str | None = None, **_: Any
) -> Node:
    if len(boundaries.shape) != 1:
        raise ValueError("boundaries of more than one axis")
    return _bucketize(g, real(g, x), boundaries, out_int32, right or side == "right")
