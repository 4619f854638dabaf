"""The derivative of a graph: one rule per operation, read from the output back to the inputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from recurra.compiler.frontend.graph import LEAVES, Graph, Node, replaced, topological

Rule = Callable[[Graph, Node, Node], tuple[Node | None, ...]]
"""(graph, node, gradient of the node) to the gradients of its arguments, before broadcasts are undone."""


def vector_jacobian(graph: Graph, outputs: Mapping[Node, Node], inputs: list[Node]) -> list[Node]:
    """Gradients of sum(gradient * output) with respect to `inputs`.

    Args:
        outputs: each output node with the node that holds its gradient, of the same shape.
        inputs: the nodes to differentiate by.

    Returns:
        one node per input, of its shape; a zero where an output does not depend on it.
    """
    contributions: dict[Node, list[Node]] = {}
    for output, gradient in outputs.items():
        contributions.setdefault(output, []).append(gradient)
    wanted = _between(list(outputs), inputs)
    totals: dict[Node, Node] = {}
    for node in reversed(topological(outputs)):
        if node not in wanted or node not in contributions:
            continue
        totals[node] = total = _total(graph, contributions[node], node)
        if node.op in LEAVES:
            continue
        for arg, part in zip(node.args, RULES[node.op](graph, node, total), strict=True):
            if part is not None and arg in wanted:
                contributions.setdefault(arg, []).append(graph.sum_to(part, arg.shape))
    zero = graph.constant(0.0)
    return [totals.get(node) or graph.expand(zero, node.shape) for node in inputs]


def _between(outputs: list[Node], inputs: list[Node]) -> set[Node]:
    """Real nodes that depend on one of `inputs`."""
    wanted: set[Node] = set()
    for node in topological(outputs):
        if node in inputs or (not node.is_bool and any(arg in wanted for arg in node.args)):
            wanted.add(node)
    return wanted


def _total(graph: Graph, parts: list[Node], node: Node) -> Node:
    """The sum of all contributions; blocks that do not overlap are put side by side instead of added."""
    blocks, others = [], []
    for part in parts:
        if part.op == "assemble":
            blocks += list(zip(part.args, part.attr, strict=True))
        else:
            others.append(part)
    layers: list[list[tuple[Node, tuple[int, ...]]]] = []
    for block in blocks:
        home = next((layer for layer in layers if not any(_overlap(block, other) for other in layer)), None)
        if home is None:
            layers.append(home := [])
        home.append(block)
    for layer in layers:
        layer.sort(key=lambda block: block[1])
        others.append(graph.assemble(*zip(*layer, strict=True), node.shape))
    total = others[0]
    for other in others[1:]:
        total = graph.pointwise("add", total, other)
    return total


def _overlap(a: tuple[Node, tuple[int, ...]], b: tuple[Node, tuple[int, ...]]) -> bool:
    (x, i), (y, j) = a, b
    return all(p < q + m and q < p + n for p, n, q, m in zip(i, x.shape, j, y.shape, strict=True))


def _maximum(g: Graph, node: Node, d: Node) -> tuple[Node, Node]:
    """Half to each argument where they are equal, as PyTorch has it."""
    a, b = node.args
    zero = g.constant(0.0)
    shared = g.pointwise("where", g.pointwise("eq", a, b), g.pointwise("mul", d, g.constant(0.5)), d)
    to_a = g.pointwise("where", g.pointwise("lt", a, b), zero, shared)
    to_b = g.pointwise("where", g.pointwise("lt", b, a), zero, shared)
    return (to_a, to_b) if node.op == "maximum" else (to_b, to_a)


def _pow(g: Graph, node: Node, d: Node) -> tuple[Node, Node | None]:
    base, exponent = node.args
    known = g.value(exponent)
    if known is not None:
        slope = g.pointwise("mul", g.constant(known), g.pointwise("pow", base, g.constant(known - 1)))
        return g.pointwise("mul", d, slope), None
    one, zero = g.constant(1.0), g.constant(0.0)
    slope = g.pointwise("mul", exponent, g.pointwise("pow", base, g.pointwise("sub", exponent, one)))
    to_base = g.pointwise("where", g.pointwise("eq", exponent, zero), zero, g.pointwise("mul", d, slope))
    growth = g.pointwise("mul", node, g.pointwise("log", base))
    flat = g.pointwise("and", g.pointwise("eq", base, zero), g.pointwise("le", zero, exponent))
    return to_base, g.pointwise("where", flat, zero, g.pointwise("mul", d, growth))


def _largest(g: Graph, node: Node, d: Node) -> tuple[Node]:
    """Evenly among the elements that attain the maximum, as torch.amax has it."""
    x = node.args[0]
    kept = tuple(1 if i in node.attr else n for i, n in enumerate(x.shape))
    hit = g.pointwise("eq", x, g.reshape(node, kept))
    ones = g.pointwise("where", hit, g.constant(1.0), g.constant(0.0))
    count = g.reshape(g.reduce("sum", ones, node.attr), kept)
    return (g.pointwise("div", g.pointwise("mul", g.reshape(d, kept), ones), count),)


def _spread(g: Graph, node: Node, d: Node) -> tuple[Node]:
    x = node.args[0]
    kept = tuple(1 if i in node.attr else n for i, n in enumerate(x.shape))
    return (g.expand(g.reshape(d, kept), x.shape),)


def _matvec(g: Graph, node: Node, d: Node) -> tuple[Node, Node]:
    matrix, vector = node.args
    m, k = matrix.shape
    return g.pointwise("mul", g.reshape(d, (m, 1)), g.reshape(vector, (1, k))), g.matvec(g.permute(matrix, (1, 0)), d)


def _permute(g: Graph, node: Node, d: Node) -> tuple[Node]:
    return (g.permute(d, tuple(node.attr.index(i) for i in range(len(node.attr)))),)


def _where(g: Graph, node: Node, d: Node) -> tuple[None, Node, Node]:
    condition, zero = node.args[0], g.constant(0.0)
    return None, g.pointwise("where", condition, d, zero), g.pointwise("where", condition, zero, d)


def _along(g: Graph, d: Node, slope: Node) -> Node:
    """A gradient times a slope. One that is chosen is chosen after multiplying: nothing, or everything, of a gradient
    is that even where the gradient is infinite."""
    if slope.op == "where":
        condition, yes, no = slope.args
        return g.pointwise("where", condition, _along(g, d, yes), _along(g, d, no))
    known = g.value(slope)
    return slope if known == 0.0 else g.pointwise("mul", d, slope)


def _times(factor: Callable[[Graph, Node, Node], Node]) -> Rule:
    """A rule for a unary operation from its slope, given the graph, the argument and the node itself."""
    return lambda g, node, d: (g.pointwise("mul", d, factor(g, node.args[0], node)),)


def _one_minus(g: Graph, x: Node) -> Node:
    return g.pointwise("sub", g.constant(1.0), x)


def _gaussian(g: Graph, x: Node) -> Node:
    return g.pointwise(
        "mul", g.constant(2 / math.sqrt(math.pi)), g.pointwise("exp", g.pointwise("neg", g.pointwise("mul", x, x)))
    )


def _over(g: Graph, sign: float, *factors: Node) -> Node:
    """One, or minus one, over the root of a product."""
    product = g.pointwise("mul", *factors) if len(factors) > 1 else factors[0]
    return g.pointwise("div", g.constant(sign), g.pointwise("sqrt", product))


def _plus_one(g: Graph, x: Node) -> Node:
    return g.pointwise("add", x, g.constant(1.0))


def _square_plus_one(g: Graph, x: Node) -> Node:
    return _plus_one(g, g.pointwise("mul", x, x))


def _atan2(g: Graph, node: Node, d: Node) -> tuple[Node, Node]:
    y, x = node.args
    square = g.pointwise("add", g.pointwise("mul", y, y), g.pointwise("mul", x, x))
    nowhere, zero = g.pointwise("eq", square, g.constant(0.0)), g.constant(0.0)
    part = g.pointwise("where", nowhere, zero, g.pointwise("div", d, square))
    return g.pointwise("mul", part, x), g.pointwise("neg", g.pointwise("mul", part, y))


RULES: dict[str, Rule] = {
    "add": lambda g, n, d: (d, d),
    "sub": lambda g, n, d: (d, g.pointwise("neg", d)),
    "mul": lambda g, n, d: (g.pointwise("mul", d, n.args[1]), g.pointwise("mul", d, n.args[0])),
    "div": lambda g, n, d: (
        g.pointwise("div", d, n.args[1]),
        g.pointwise("neg", g.pointwise("div", g.pointwise("mul", d, n), n.args[1])),
    ),
    "neg": lambda g, n, d: (g.pointwise("neg", d),),
    "copy": lambda g, n, d: (d,),
    "custom": lambda g, n, d: (None, *replaced(g, dict(enumerate(n.attr[1])), {n.attr[0]: d}).values()),
    "exp": _times(lambda g, x, y: y),
    "exp2": _times(lambda g, x, y: g.pointwise("mul", y, g.constant(math.log(2)))),
    "log": lambda g, n, d: (g.pointwise("div", d, n.args[0]),),
    "log1p": lambda g, n, d: (g.pointwise("div", d, g.pointwise("add", n.args[0], g.constant(1.0))),),
    "expm1": _times(lambda g, x, y: g.pointwise("add", y, g.constant(1.0))),
    "sqrt": lambda g, n, d: (g.pointwise("div", d, g.pointwise("mul", n, g.constant(2.0))),),
    "sigmoid": _times(lambda g, x, y: g.pointwise("mul", y, _one_minus(g, y))),
    "tanh": _times(lambda g, x, y: _one_minus(g, g.pointwise("mul", y, y))),
    "erf": _times(lambda g, x, y: _gaussian(g, x)),
    "sin": _times(lambda g, x, y: g.pointwise("cos", x)),
    "cos": _times(lambda g, x, y: g.pointwise("neg", g.pointwise("sin", x))),
    "abs": _times(lambda g, x, y: g.pointwise("sign", x)),
    "sign": lambda g, n, d: (None,),
    "floor": lambda g, n, d: (None,),
    "ceil": lambda g, n, d: (None,),
    "trunc": lambda g, n, d: (None,),
    "round": lambda g, n, d: (None,),
    "fmod": lambda g, n, d: (
        d,
        g.pointwise("neg", g.pointwise("mul", d, g.pointwise("trunc", g.pointwise("div", *n.args)))),
    ),
    "log2": lambda g, n, d: (g.pointwise("div", d, g.pointwise("mul", n.args[0], g.constant(math.log(2)))),),
    "erfc": _times(lambda g, x, y: g.pointwise("neg", _gaussian(g, x))),
    "tan": _times(lambda g, x, y: _square_plus_one(g, y)),
    "asin": _times(lambda g, x, y: _over(g, 1.0, _one_minus(g, x), _plus_one(g, x))),
    "acos": _times(lambda g, x, y: _over(g, -1.0, _one_minus(g, x), _plus_one(g, x))),
    "atan": lambda g, n, d: (g.pointwise("div", d, _square_plus_one(g, n.args[0])),),
    "atan2": _atan2,
    "sinh": _times(lambda g, x, y: g.pointwise("cosh", x)),
    "cosh": _times(lambda g, x, y: g.pointwise("sinh", x)),
    "asinh": _times(lambda g, x, y: _over(g, 1.0, _square_plus_one(g, x))),
    "acosh": _times(lambda g, x, y: _over(g, 1.0, g.pointwise("sub", x, g.constant(1.0)), _plus_one(g, x))),
    "atanh": lambda g, n, d: (
        g.pointwise("div", d, g.pointwise("mul", _one_minus(g, n.args[0]), _plus_one(g, n.args[0]))),
    ),
    "stop": lambda g, n, d: (None,),
    "slope": lambda g, n, d: (d, _along(g, d, n.args[2]), None),
    "softplus": _times(lambda g, x, y: g.pointwise("sigmoid", x)),
    "maximum": _maximum,
    "minimum": _maximum,
    "pow": _pow,
    "hypot": lambda g, n, d: tuple(g.pointwise("mul", d, g.pointwise("div", arg, n)) for arg in n.args),
    "where": _where,
    "sum": _spread,
    "max": _largest,
    "matvec": _matvec,
    "reshape": lambda g, n, d: (g.reshape(d, n.args[0].shape),),
    "permute": _permute,
    "expand": lambda g, n, d: (d,),
    "slice": lambda g, n, d: (g.assemble((d,), (n.attr,), n.args[0].shape),),
    "assemble": lambda g, n, d: tuple(g.slice(d, at, part.shape) for part, at in zip(n.args, n.attr, strict=True)),
}
