"""PyTorch's operations in terms of the graph's: one table row each. Complex values are pairs of real ones.

Here are the pointwise ones; `lowering_shapes` holds views, reductions and products."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from recurra.compiler.frontend.graph import Graph, Node
from recurra.compiler.frontend.values import Pair, Value

LOWERING: dict[str, Callable[..., Any]] = {}
"""Name of the operation in ATen -> function(graph, arguments with nodes for tensors) -> node, pair or list of them."""


def rule(*names: str) -> Callable[[Callable], Callable]:
    """Enter a function in the table."""

    def enter(function: Callable) -> Callable:
        LOWERING.update(dict.fromkeys(names, function))
        return function

    return enter


def as_node(g: Graph, value: Any) -> Value:
    """A tensor's node, or a Python number as one."""
    if isinstance(value, complex):
        return Pair(g.constant(value.real), g.constant(value.imag))
    return value if isinstance(value, Node | Pair) else g.constant(float(value))


def real(g: Graph, value: Any) -> Node:
    """A real operand; booleans become 0 and 1."""
    node = as_node(g, value)
    if isinstance(node, Pair):
        raise TypeError("a complex operand")
    return g.pointwise("where", node, g.constant(1.0), g.constant(0.0)) if node.is_bool else node


def pair(g: Graph, value: Any) -> Pair:
    """A complex operand; a real one gets a zero imaginary part."""
    node = as_node(g, value)
    return node if isinstance(node, Pair) else Pair(real(g, node), g.expand(g.constant(0.0), node.shape))


def boolean(g: Graph, value: Any) -> Node:
    """A boolean operand; of a number, whether it is not 0."""
    node = as_node(g, value)
    assert isinstance(node, Node)
    return node if node.is_bool else g.pointwise("not", g.pointwise("eq", node, g.constant(0.0)))


def each(x: Value, function: Callable[[Node], Node]) -> Value:
    """Do the same to a real value, or to both parts of a complex one."""
    return Pair(function(x.real), function(x.imag)) if isinstance(x, Pair) else function(x)


@rule("_conj", "conj_physical", "_conj_physical")
def conj(g: Graph, x: Value) -> Value:
    """The complex conjugate."""
    return Pair(x.real, g.pointwise("neg", x.imag)) if isinstance(x, Pair) else x


# --- pointwise ------------------------------------------------------------------------------------------------------
def _pointwise(op: str) -> Callable[..., Node]:
    return lambda g, *args: g.pointwise(op, *(real(g, a) for a in args))


for _name in ("log", "log1p", "expm1", "sqrt", "sigmoid", "tanh", "erf", "sin", "cos", "sign", "floor",
              "maximum", "minimum"):  # fmt: skip
    rule(_name)(_pointwise(_name))
rule("pow")(lambda g, base, exponent: g.pointwise("pow", real(g, base), real(g, exponent)))
rule("reciprocal")(lambda g, x: _div(g, 1.0, x))
rule("rsqrt")(lambda g, x: g.pointwise("div", g.constant(1.0), g.pointwise("sqrt", x)))
rule("square")(lambda g, x: mul(g, x, x))
rule("exp2")(lambda g, x: g.pointwise("exp", g.pointwise("mul", real(g, x), g.constant(math.log(2)))))


def add(g: Graph, a: Any, b: Any, alpha: float = 1, op: str = "add") -> Value:
    """a + alpha b, or the difference."""
    a, b = as_node(g, a), as_node(g, b)
    b = mul(g, b, alpha) if alpha != 1 else b
    if isinstance(a, Pair) or isinstance(b, Pair):
        a, b = pair(g, a), pair(g, b)
        return Pair(g.pointwise(op, a.real, b.real), g.pointwise(op, a.imag, b.imag))
    return g.pointwise(op, real(g, a), real(g, b))


rule("add")(add)
rule("sub")(lambda g, a, b, alpha=1: add(g, a, b, alpha, "sub"))
rule("rsub")(lambda g, a, b, alpha=1: add(g, b, a, alpha, "sub"))


@rule("mul")
def mul(g: Graph, a: Any, b: Any) -> Value:
    """a b, real or complex."""
    a, b = as_node(g, a), as_node(g, b)
    if isinstance(a, Pair) and isinstance(b, Pair):

        def product(op: str, p: Node, q: Node, r: Node, s: Node) -> Node:
            return g.pointwise(op, g.pointwise("mul", p, q), g.pointwise("mul", r, s))

        return Pair(product("sub", a.real, b.real, a.imag, b.imag), product("add", a.real, b.imag, a.imag, b.real))
    if isinstance(b, Pair):
        a, b = b, a
    if isinstance(a, Pair):
        factor = real(g, b)
        return Pair(g.pointwise("mul", a.real, factor), g.pointwise("mul", a.imag, factor))
    if a.is_bool and b.is_bool:
        return g.pointwise("and", a, b)
    return g.pointwise("mul", real(g, a), real(g, b))


@rule("div")
def _div(g: Graph, a: Any, b: Any) -> Value:
    a, b = as_node(g, a), as_node(g, b)
    if isinstance(b, Pair):
        size = g.pointwise("add", g.pointwise("mul", b.real, b.real), g.pointwise("mul", b.imag, b.imag))
        return _div(g, mul(g, a, conj(g, b)), size)
    if isinstance(a, Pair):
        divisor = real(g, b)
        return Pair(g.pointwise("div", a.real, divisor), g.pointwise("div", a.imag, divisor))
    return g.pointwise("div", real(g, a), real(g, b))


@rule("neg")
def _neg(g: Graph, x: Value) -> Value:
    return each(x, lambda node: g.pointwise("neg", real(g, node)))


@rule("exp")
def _exp(g: Graph, x: Value) -> Value:
    if not isinstance(x, Pair):
        return g.pointwise("exp", real(g, x))
    size = g.pointwise("exp", x.real)
    return Pair(
        g.pointwise("mul", size, g.pointwise("cos", x.imag)), g.pointwise("mul", size, g.pointwise("sin", x.imag))
    )


@rule("abs")
def _abs(g: Graph, x: Value) -> Node:
    if not isinstance(x, Pair):
        return g.pointwise("abs", real(g, x))
    square = g.pointwise("add", g.pointwise("mul", x.real, x.real), g.pointwise("mul", x.imag, x.imag))
    return g.pointwise("sqrt", square)


@rule("relu")
def _relu(g: Graph, x: Node) -> Node:
    return g.pointwise("where", g.pointwise("le", x, g.constant(0.0)), g.constant(0.0), x)


@rule("leaky_relu")
def _leaky_relu(g: Graph, x: Node, slope: float = 0.01) -> Node:
    return g.pointwise(
        "where", g.pointwise("lt", g.constant(0.0), x), x, g.pointwise("mul", x, g.constant(float(slope)))
    )


@rule("clamp", "clamp_min", "clamp_max", "hardtanh")
def _clamp(g: Graph, x: Node, min: Any = None, max: Any = None) -> Node:
    if min is not None:
        x = g.pointwise("where", g.pointwise("lt", x, real(g, min)), real(g, min), x)
    if max is not None:
        x = g.pointwise("where", g.pointwise("lt", real(g, max), x), real(g, max), x)
    return x


LOWERING["clamp_max"] = lambda g, x, max: _clamp(g, x, None, max)


@rule("softplus")
def _softplus(g: Graph, x: Node, beta: float = 1, threshold: float = 20) -> Node:
    scaled = g.pointwise("mul", x, g.constant(float(beta)))
    soft = g.pointwise("div", g.pointwise("softplus", scaled), g.constant(float(beta)))
    return g.pointwise("where", g.pointwise("lt", g.constant(float(threshold)), scaled), x, soft)


@rule("silu")
def _silu(g: Graph, x: Node) -> Node:
    return g.pointwise("mul", x, g.pointwise("sigmoid", x))


@rule("gelu")
def _gelu(g: Graph, x: Node, approximate: str = "none") -> Value:
    if approximate == "tanh":
        inner = mul(g, math.sqrt(2 / math.pi), add(g, x, mul(g, 0.044715, mul(g, x, mul(g, x, x)))))
        return mul(g, mul(g, 0.5, x), add(g, 1.0, g.pointwise("tanh", inner)))
    return mul(g, mul(g, 0.5, x), add(g, 1.0, g.pointwise("erf", mul(g, x, math.sqrt(0.5)))))


@rule("log_sigmoid_forward")
def _log_sigmoid(g: Graph, x: Node) -> list[Node]:
    value = g.pointwise("neg", g.pointwise("softplus", g.pointwise("neg", x)))
    return [value, value]


# --- backward operations that appear when `step` differentiates inside itself -----------------------------------------
rule("tanh_backward")(lambda g, d, y: mul(g, d, add(g, 1.0, mul(g, y, y), op="sub")))
rule("sigmoid_backward")(lambda g, d, y: mul(g, mul(g, d, y), add(g, 1.0, y, op="sub")))


@rule("threshold_backward")
def _threshold_backward(g: Graph, d: Node, x: Node, threshold: float) -> Node:
    return g.pointwise("where", g.pointwise("le", x, g.constant(float(threshold))), g.constant(0.0), d)


# --- comparison and choice --------------------------------------------------------------------------------------------
rule("lt")(lambda g, a, b: g.pointwise("lt", real(g, a), real(g, b)))
rule("le")(lambda g, a, b: g.pointwise("le", real(g, a), real(g, b)))
rule("gt")(lambda g, a, b: g.pointwise("lt", real(g, b), real(g, a)))
rule("ge")(lambda g, a, b: g.pointwise("le", real(g, b), real(g, a)))
rule("eq")(lambda g, a, b: g.pointwise("eq", real(g, a), real(g, b)))
rule("ne")(lambda g, a, b: g.pointwise("not", g.pointwise("eq", real(g, a), real(g, b))))
rule("isnan")(lambda g, x: g.pointwise("not", g.pointwise("eq", real(g, x), real(g, x))))
rule("logical_and", "bitwise_and")(lambda g, a, b: g.pointwise("and", boolean(g, a), boolean(g, b)))
rule("logical_or", "bitwise_or")(lambda g, a, b: g.pointwise("or", boolean(g, a), boolean(g, b)))
rule("logical_not", "bitwise_not")(lambda g, a: g.pointwise("not", boolean(g, a)))


@rule("where")
def _where(g: Graph, condition: Node, yes: Any, no: Any) -> Value:
    yes, no = as_node(g, yes), as_node(g, no)
    if isinstance(yes, Pair) or isinstance(no, Pair):
        yes, no = pair(g, yes), pair(g, no)
        return Pair(
            g.pointwise("where", condition, yes.real, no.real), g.pointwise("where", condition, yes.imag, no.imag)
        )
    if not (yes.is_bool and no.is_bool):
        yes, no = real(g, yes), real(g, no)
    return g.pointwise("where", boolean(g, condition), yes, no)


rule("masked_fill")(lambda g, x, mask, value: _where(g, mask, value, x))
