"""Fewer operations on large values: products are taken small factors first, and factors that a sum does not run over
are taken out of it.

A scalar times an outer product costs one multiplication per element and not two; the sum over k of b * S[v, k] * q[k]
needs one, with b applied to the result. Derivatives are full of both.
"""

from __future__ import annotations

from collections.abc import Mapping

from recurra.compiler.frontend.graph import POINTWISE, REDUCTIONS, Graph, Node, topological


def regroup(graph: Graph, outputs: Mapping[str, Node]) -> dict[str, Node]:
    """The same values with their products and sums regrouped, and no axes of length 1; equal up to rounding, unless a
    product of some of the factors leaves the range of the type."""
    return _squeezed(graph, _regrouped(graph, outputs))


def _regrouped(graph: Graph, outputs: Mapping[str, Node]) -> dict[str, Node]:
    made: dict[Node, Node] = {}
    for node in topological(outputs.values()):
        again = graph.rebuild(node, tuple(made[arg] for arg in node.args))
        if node.op == "mul":
            again = graph.expand(_product(graph, _factors(graph, again)), again.shape)
        elif node.op == "sum":
            again = _total(graph, again)
        made[node] = again
    return {name: made[node] for name, node in outputs.items()}


def _squeezed(graph: Graph, outputs: Mapping[str, Node]) -> dict[str, Node]:
    """Without axes of length 1, so that [n, 1], [1, n] and [n] share loops, and n is what a vector runs along."""
    made: dict[Node, Node] = {}
    for node in topological(outputs.values()):
        again = graph.rebuild(node, tuple(made[arg] for arg in node.args))
        if node.op in POINTWISE and 1 in node.shape:
            args = (graph.reshape(arg, tuple(arg.shape[i] for i in sorted(_axes(node)))) for arg in again.args)
            again = graph.reshape(graph.pointwise(node.op, *args), node.shape)
        elif node.op in REDUCTIONS and 1 in again.args[0].shape:
            whole = again.args[0]
            kept = sorted(_axes(whole))
            flat = graph.reshape(whole, tuple(whole.shape[i] for i in kept))
            axes = tuple(at for at, i in enumerate(kept) if i in node.attr)
            again = graph.reshape(graph.reduce(node.op, flat, axes), node.shape)
        made[node] = again
    return {name: made[node] for name, node in outputs.items()}


def _axes(node: Node) -> frozenset[int]:
    """Along which axes a value varies."""
    return frozenset(i for i, n in enumerate(node.shape) if n != 1)


def _factors(graph: Graph, node: Node) -> list[Node]:
    """Values of the same rank whose product a value is, up to broadcasting. A product whose factors all vary as it
    does stays in one piece."""
    if node.op == "expand":
        return _factors(graph, node.args[0])
    if node.op == "neg":
        return [graph.reshape(graph.constant(-1.0), (1,) * len(node.shape)), *_factors(graph, node.args[0])]
    if node.op == "mul":
        factors = [factor for arg in node.args for factor in _factors(graph, arg)]
        if any(_axes(factor) != _axes(node) for factor in factors):
            return factors
    return [node]


def _product(graph: Graph, factors: list[Node]) -> Node:
    """The product, broadcast no further than its factors ask for."""
    groups: dict[frozenset[int], Node] = {}

    def put(factor: Node) -> None:
        axes = _axes(factor)
        if axes in groups:
            # In one order, so that the same product is found again.
            pair = sorted((groups[axes], factor), key=lambda node: node.number)
            factor = graph.pointwise("mul", *pair)
        groups[axes] = factor

    for factor in factors:
        put(factor)
    while len(groups) > 1:
        least = min(groups, key=lambda axes: groups[axes].size)
        small = groups.pop(least)
        home = min(groups, key=lambda axes: (not axes > least, groups[axes].size))
        put(graph.pointwise("mul", small, groups.pop(home)))
    return next(iter(groups.values()))


def _total(graph: Graph, node: Node) -> Node:
    """A sum, made of the smallest sums that come to the same."""
    shape, axes = node.args[0].shape, {i for i in node.attr if node.args[0].shape[i] != 1}
    factors = _factors(graph, node.args[0])
    if not axes <= _varying(factors):
        return node
    total = graph.expand(_sum(graph, factors, axes), tuple(1 if i in axes else n for i, n in enumerate(shape)))
    return graph.reshape(total, node.shape)


def _sum(graph: Graph, factors: list[Node], axes: set[int]) -> Node:
    """The sum of a product over axes, which stay with length 1: factors that do not vary along them are taken out,
    what is added to a matrix as an outer product is summed by itself, and axes are summed one after another where
    factors vary along some of them only."""
    outside = [factor for factor in factors if not _axes(factor) & axes]
    inside = [factor for factor in factors if _axes(factor) & axes]
    for axis in sorted(axes) if len(axes) > 1 else ():
        along = [factor for factor in inside if axis in _axes(factor)]
        if len(along) < len(inside):
            others = [factor for factor in inside if axis not in _axes(factor)]
            return _product(graph, [*outside, _sum(graph, [_sum(graph, along, {axis}), *others], axes - {axis})])
    for factor in inside:
        others = [other for other in inside if other is not factor]
        addends = [_factors(graph, part) for part in _addends(graph, factor)]
        parts = [[*addend, *others] for addend in addends]
        if any(map(_is_outer, addends)) and all(axes <= _varying(part) for part in parts):
            first, *rest = (_sum(graph, part, axes) for part in parts)
            for part in rest:
                first = graph.pointwise("add", first, part)
            return _product(graph, [*outside, first])
    product = _product(graph, inside)
    kept = tuple(1 if i in axes else n for i, n in enumerate(product.shape))
    return _product(graph, [*outside, graph.reshape(graph.reduce("sum", product, axes), kept)])


def _is_outer(factors: list[Node]) -> bool:
    """Whether a product is an outer product. A mere row or column, such as a mean, stays where it is subtracted: to sum
    it by itself would lose digits."""
    varying = {_axes(factor) for factor in factors} - {frozenset()}
    return len(varying) > 1 and _varying(factors) not in varying


def _addends(graph: Graph, node: Node) -> list[Node]:
    """Values whose sum a value is."""
    if node.op == "add":
        return list(node.args)
    return [node.args[0], graph.pointwise("neg", node.args[1])] if node.op == "sub" else [node]


def _varying(factors: list[Node]) -> frozenset[int]:
    """Along which axes a product varies."""
    return frozenset().union(*map(_axes, factors))
