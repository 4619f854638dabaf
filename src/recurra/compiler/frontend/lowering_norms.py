"""Norms and standard deviations of PyTorch in terms of the graph's; see `lowering`.

Where such a root is zero its slope is infinite, and PyTorch's is zero: there the slope is given with the value.
"""

from __future__ import annotations

import math
from typing import Any

from recurra.compiler.frontend.graph import Graph, Node
from recurra.compiler.frontend.lowering import add, as_node, real, rule, size_of
from recurra.compiler.frontend.lowering_shapes import reduced, variance_and_mean
from recurra.compiler.frontend.values import Pair, Value


def root(g: Graph, square: Node) -> Node:
    """The square root, with a slope of zero where it is zero."""
    value, zero = g.pointwise("sqrt", square), g.constant(0.0)
    steep = g.pointwise("div", g.constant(0.5), value)
    return g.given(value, (square, g.pointwise("where", g.pointwise("eq", value, zero), zero, steep)))


def _power(g: Graph, x: Node, exponent: float) -> Node:
    return g.pointwise("pow", x, g.constant(exponent))


@rule("linalg_vector_norm", "norm")
def vector_norm(g: Graph, x: Value, order: float | None = 2, axes: Any = None, keepdim: bool = False, **_: Any) -> Node:
    """(sum of |x|^order)^(1/order) over axes; of infinite order the largest or smallest |x|, of order 0 how many."""
    order = 2.0 if order is None else float(order)
    size = real(g, size_of(g, x))
    alone = reduced(g, "sum", size, axes, keepdim)
    if alone.size == size.size and order not in (0, 1, math.inf, -math.inf):
        zero = g.constant(0.0)
        slope = g.pointwise("where", g.pointwise("eq", alone, zero), zero, g.pointwise("div", alone, alone))
        return g.given(alone, (alone, slope))
    if order == 2 and isinstance(x, Pair):
        square = add(g, g.pointwise("mul", x.real, x.real), g.pointwise("mul", x.imag, x.imag))
        return root(g, reduced(g, "sum", real(g, square), axes, keepdim))
    if order == 2:
        return root(g, reduced(g, "sum", g.pointwise("mul", x, x), axes, keepdim))
    if math.isinf(order):
        return _largest(g, size, axes, keepdim, -1.0 if order < 0 else 1.0)
    if order == 0:
        other = g.pointwise("not", g.pointwise("eq", size, g.constant(0.0)))
        return reduced(g, "sum", real(g, other), axes, keepdim)
    if order == 1:
        return alone
    return _other_norm(g, size, order, axes, keepdim)


def _summed(g: Graph, value: Node, x: Node, slope: Node, axes: Any, keepdim: bool) -> Node:
    """A reduction with a derivative of its own: `slope`, of the shape of x."""
    nothing = g.given(g.expand(g.constant(0.0), x.shape), (x, slope))
    return g.pointwise("add", g.pointwise("stop", value), reduced(g, "sum", nothing, axes, keepdim))


def _largest(g: Graph, size: Node, axes: Any, keepdim: bool, sign: float) -> Node:
    """The largest element, or the smallest, with a slope shared by all that equal it; a NaN is equal to none."""
    factor, zero = g.constant(sign), g.constant(0.0)
    most = g.pointwise("mul", factor, reduced(g, "max", g.pointwise("mul", factor, size), axes, True))
    hit = g.pointwise("eq", size, most)
    hits = g.pointwise("where", hit, g.constant(1.0), zero)
    count = g.pointwise("maximum", reduced(g, "sum", hits, axes, True), g.constant(1.0))
    slope = g.pointwise("div", hits, count)
    value = most if keepdim else reduced(g, "max", most, axes, False)
    return _summed(g, value, size, slope, axes, keepdim)


@rule("logsumexp")
def _logsumexp(g: Graph, x: Node, axes: Any, keepdim: bool = False) -> Node:
    """log(sum of e^x), with the slope e^(x - result)."""
    most, zero = reduced(g, "max", x, axes, True), g.constant(0.0)
    endless = g.pointwise("eq", g.pointwise("abs", most), g.constant(math.inf))
    most = g.pointwise("where", endless, zero, most)
    total = reduced(g, "sum", g.pointwise("exp", g.pointwise("sub", x, most)), axes, True)
    whole = g.pointwise("add", g.pointwise("log", total), most)
    slope = g.pointwise("exp", g.pointwise("sub", x, whole))
    return _summed(g, reduced(g, "max", whole, axes, keepdim), x, slope, axes, keepdim)


def _other_norm(g: Graph, size: Node, order: float, axes: Any, keepdim: bool) -> Node:
    """The factor `order` of the inner slope and its reciprocal in the outer one are left out of both."""
    zero, steep = g.constant(0.0), _power(g, size, order - 1)
    if order < 1:
        steep = g.pointwise("where", g.pointwise("eq", size, zero), zero, steep)
    total = reduced(g, "sum", g.given(_power(g, size, order), (size, steep)), axes, keepdim)
    value = _power(g, total, 1 / order)
    outer = g.pointwise("where", g.pointwise("eq", value, zero), zero, _power(g, value, 1 - order))
    return g.given(value, (total, outer))


@rule("dist")
def _dist(g: Graph, a: Value, b: Value, order: float = 2) -> Node:
    return vector_norm(g, add(g, a, as_node(g, b), op="sub"), order)


@rule("std_mean")
def _std_mean(
    g: Graph, x: Node, axes: Any = None, correction: float | None = None, keepdim: bool = False
) -> list[Node]:
    variance, mean = variance_and_mean(g, x, axes, correction, keepdim)
    return [root(g, variance), mean]


rule("std")(lambda g, *args, **kwargs: _std_mean(g, *args, **kwargs)[0])
