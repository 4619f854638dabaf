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


BY_NUMBER: set[str] = set()
"""Rules that are given whole numbers and booleans which are known now as the tensors they are: positions."""


def rule(*names: str, by_number: bool = False) -> Callable[[Callable], Callable]:
    """Enter a function in the table."""

    def enter(function: Callable) -> Callable:
        LOWERING.update(dict.fromkeys(names, function))
        BY_NUMBER.update(names if by_number else ())
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


@rule("_conj", "_conj_physical")
def conj(g: Graph, x: Value) -> Value:
    """The complex conjugate."""
    return Pair(x.real, g.pointwise("neg", x.imag)) if isinstance(x, Pair) else x


# --- pointwise ------------------------------------------------------------------------------------------------------
def _pointwise(op: str) -> Callable[..., Node]:
    return lambda g, *args: g.pointwise(op, *(real(g, a) for a in args))


for _name in ("exp2", "log", "log1p", "expm1", "sqrt", "sigmoid", "tanh", "erf", "sin", "cos", "sign", "floor",
              "maximum", "minimum", "hypot"):  # fmt: skip
    rule(_name)(_pointwise(_name))


@rule("pow")
def _pow(g: Graph, base: Any, exponent: Any) -> Value:
    if isinstance(base, Pair) and exponent in (2, 3):
        square = mul(g, base, base)
        return square if exponent == 2 else mul(g, square, base)
    base, power = real(g, base), real(g, exponent)
    value, known = g.pointwise("pow", base, power), g.value(power)
    if known is None or known >= 0:
        return value
    # Whatever it is computed as, its slope is that of a power: at zero and infinity a quotient's would be NaN.
    return g.given(value, (base, mul(g, known, g.pointwise("pow", base, g.constant(known - 1)))))


rule("reciprocal")(lambda g, x: divide(g, 1.0, x))
rule("rsqrt")(lambda g, x: g.pointwise("div", g.constant(1.0), g.pointwise("sqrt", x)))


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
def divide(g: Graph, a: Any, b: Any) -> Value:
    """a / b, real or complex."""
    a, b = as_node(g, a), as_node(g, b)
    if isinstance(b, Pair):
        return _complex_quotient(g, pair(g, a), b)
    if isinstance(a, Pair):
        divisor = real(g, b)
        return Pair(g.pointwise("div", a.real, divisor), g.pointwise("div", a.imag, divisor))
    return g.pointwise("div", real(g, a), real(g, b))


def _complex_quotient(g: Graph, a: Pair, b: Pair) -> Pair:
    """Both parts of b are taken relative to the larger one (Smith, 1962), so that no square leaves the range. By b the
    slope is that of the quotient over b; what follows from how it is computed would be neither short nor exact."""
    sizes = g.pointwise("abs", b.real), g.pointwise("abs", b.imag)
    upright = g.pointwise("le", sizes[1], sizes[0])
    c, d = (g.pointwise("stop", part) for part in (b.real, b.imag))
    ratio = g.pointwise("div", g.pointwise("where", upright, d, c), g.pointwise("where", upright, c, d))
    whole = g.pointwise("where", upright, add(g, c, mul(g, d, ratio)), add(g, d, mul(g, c, ratio)))

    def over(x: Pair) -> Pair:
        near = add(g, x.real, mul(g, x.imag, ratio)), add(g, x.imag, mul(g, x.real, ratio), op="sub")
        far = add(g, mul(g, x.real, ratio), x.imag), add(g, mul(g, x.imag, ratio), x.real, op="sub")
        parts = (g.pointwise("where", upright, p, q) for p, q in zip(near, far, strict=True))
        return Pair(*(g.pointwise("div", part, whole) for part in parts))

    value = over(a)
    slope = over(value)
    return with_slope(g, value, b, Pair(g.pointwise("neg", slope.real), g.pointwise("neg", slope.imag)))


def with_slope(g: Graph, value: Pair, z: Pair, slope: Pair) -> Pair:
    """A complex value whose complex derivative by z is `slope` more than it would be without."""
    turned = g.pointwise("neg", slope.imag)
    real_part = g.pointwise("slope", g.pointwise("slope", value.real, z.real, slope.real), z.imag, turned)
    imag_part = g.pointwise("slope", g.pointwise("slope", value.imag, z.real, slope.imag), z.imag, slope.real)
    return Pair(real_part, imag_part)


@rule("neg")
def _neg(g: Graph, x: Value) -> Value:
    return each(x, lambda node: g.pointwise("neg", real(g, node)))


@rule("exp")
def _exp(g: Graph, x: Value) -> Value:
    if not isinstance(x, Pair):
        return g.pointwise("exp", real(g, x))
    zero, size = g.constant(0.0), g.pointwise("exp", x.real)
    # Of no size it is 0 at any angle, an infinite one too; at no angle its imaginary part is 0, of infinite size too.
    gone = g.pointwise("eq", x.real, g.constant(-math.inf))
    level = g.pointwise("or", gone, g.pointwise("eq", x.imag, zero))
    across = g.pointwise("where", gone, zero, g.pointwise("mul", size, g.pointwise("cos", x.imag)))
    up = g.pointwise("where", level, zero, g.pointwise("mul", size, g.pointwise("sin", x.imag)))
    value = Pair(across, up)
    return with_slope(g, each(value, lambda part: g.pointwise("stop", part)), x, value)


@rule("polar")
def _polar(g: Graph, size: Node, angle: Node) -> Pair:
    """By the size PyTorch's slope is the direction of the result: none at 0, the opposite one below."""
    zero, length = g.constant(0.0), g.pointwise("abs", size)
    nowhere = g.pointwise("eq", size, zero)
    value = Pair(*(g.pointwise("mul", size, g.pointwise(op, angle)) for op in ("cos", "sin")))
    way = each(value, lambda part: g.pointwise("where", nowhere, zero, g.pointwise("div", part, length)))
    return Pair(
        g.given(value.real, (size, way.real), (angle, g.pointwise("neg", value.imag))),
        g.given(value.imag, (size, way.imag), (angle, value.real)),
    )


@rule("abs")
def size_of(g: Graph, x: Value) -> Node:
    """|x|, real or complex."""
    if not isinstance(x, Pair):
        return g.pointwise("abs", real(g, x))
    size, direction = g.pointwise("hypot", x.real, x.imag), _direction(g, x)
    return g.given(size, (x.real, direction.real), (x.imag, direction.imag))


def _direction(g: Graph, x: Pair) -> Pair:
    """x / |x|, and 0 at 0."""
    size, zero = g.pointwise("hypot", x.real, x.imag), g.constant(0.0)
    nowhere = g.pointwise("eq", size, zero)
    return each(x, lambda part: g.pointwise("where", nowhere, zero, g.pointwise("div", part, size)))


@rule("sgn")
def _sgn(g: Graph, x: Value) -> Value:
    if not isinstance(x, Pair):
        return g.pointwise("sign", real(g, x))
    way, size, zero = _direction(g, x), g.pointwise("hypot", x.real, x.imag), g.constant(0.0)
    nowhere = g.pointwise("eq", size, zero)

    def slope(a: Node, b: Node) -> Node:
        return g.pointwise("where", nowhere, zero, divide(g, mul(g, a, b), size))

    aside = slope(g.pointwise("neg", way.real), way.imag)
    return Pair(
        g.given(way.real, (x.real, slope(way.imag, way.imag)), (x.imag, aside)),
        g.given(way.imag, (x.real, aside), (x.imag, slope(way.real, way.real))),
    )


@rule("relu")
def _relu(g: Graph, x: Node) -> Node:
    return g.pointwise("where", g.pointwise("le", x, g.constant(0.0)), g.constant(0.0), x)


@rule("leaky_relu")
def _leaky_relu(g: Graph, x: Node, slope: float = 0.01) -> Node:
    return g.pointwise(
        "where", g.pointwise("lt", g.constant(0.0), x), x, g.pointwise("mul", x, g.constant(float(slope)))
    )


@rule("softplus")
def _softplus(g: Graph, x: Node, beta: float = 1, threshold: float = 20) -> Node:
    scaled = g.pointwise("mul", x, g.constant(float(beta)))
    soft = g.pointwise("div", g.pointwise("softplus", scaled), g.constant(float(beta)))
    return g.pointwise("where", g.pointwise("lt", g.constant(float(threshold)), scaled), x, soft)


@rule("silu")
def _silu(g: Graph, x: Node) -> Node:
    return g.pointwise("mul", x, g.pointwise("sigmoid", x))


@rule("log_sigmoid_forward")
def _log_sigmoid(g: Graph, x: Node) -> list[Node]:
    """The value, and e^-|x|, which PyTorch keeps for the slope."""
    kept = g.pointwise("exp", g.pointwise("neg", g.pointwise("abs", x)))
    return [g.pointwise("neg", g.pointwise("softplus", g.pointwise("neg", x))), kept]


@rule("mish")
def _mish(g: Graph, x: Node) -> Node:
    return g.pointwise("mul", x, g.pointwise("tanh", g.pointwise("softplus", x)))


# --- comparison and choice --------------------------------------------------------------------------------------------
rule("lt")(lambda g, a, b: g.pointwise("lt", real(g, a), real(g, b)))
rule("le")(lambda g, a, b: g.pointwise("le", real(g, a), real(g, b)))
rule("gt")(lambda g, a, b: g.pointwise("lt", real(g, b), real(g, a)))
rule("ge")(lambda g, a, b: g.pointwise("le", real(g, b), real(g, a)))
rule("eq")(lambda g, a, b: g.pointwise("eq", real(g, a), real(g, b)))
rule("ne")(lambda g, a, b: g.pointwise("not", g.pointwise("eq", real(g, a), real(g, b))))
rule("isnan")(lambda g, x: g.pointwise("not", g.pointwise("eq", real(g, x), real(g, x))))
rule("logical_and")(lambda g, a, b: g.pointwise("and", boolean(g, a), boolean(g, b)))
rule("logical_or")(lambda g, a, b: g.pointwise("or", boolean(g, a), boolean(g, b)))
rule("logical_not")(lambda g, a: g.pointwise("not", boolean(g, a)))
for _name in ("and", "or", "not"):
    rule(f"bitwise_{_name}")(lambda g, *args, _op=_name: g.pointwise(_op, *(condition(g, a) for a in args)))


def condition(g: Graph, value: Any) -> Node:
    """An operand of what PyTorch does bit by bit: of conditions that is their logic, of numbers it is not known."""
    if not (isinstance(value, bool) or (isinstance(value, Node) and value.is_bool)):
        raise TypeError("numbers, bit by bit")
    return boolean(g, value)


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
