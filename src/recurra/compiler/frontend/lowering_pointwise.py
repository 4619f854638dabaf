"""Rounding, remainders, angles, signs and special numbers in terms of the graph's operations; see `lowering`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from recurra.compiler.frontend.graph import Graph, Node
from recurra.compiler.frontend.lowering import LOWERING, boolean, condition, divide, mul, real, rule
from recurra.compiler.frontend.values import Pair, Value

for _name in ("ceil", "trunc", "erfc", "log2", "tan", "asin", "acos", "atan", "atan2", "sinh", "cosh", "asinh", "acosh",
              "atanh", "fmod"):  # fmt: skip
    rule(_name)(lambda g, *args, _op=_name: g.pointwise(_op, *(real(g, a) for a in args)))
rule("frac")(lambda g, x: g.pointwise("sub", x, g.pointwise("trunc", x)))


@rule("log10")
def _log10(g: Graph, x: Any) -> Node:
    x, ten = real(g, x), math.log(10)
    return g.given(mul(g, g.pointwise("log", x), 1 / ten), (x, divide(g, 1.0, mul(g, x, ten))))


def _choose(g: Graph, condition: Node, yes: Any, no: Any) -> Node:
    return g.pointwise("where", condition, real(g, yes), real(g, no))


def _negative(g: Graph, x: Node) -> Node:
    return g.pointwise("lt", x, g.constant(0.0))


def _is_zero(g: Graph, x: Node) -> Node:
    return g.pointwise("eq", x, g.constant(0.0))


def _differ(g: Graph, a: Node, b: Node) -> Node:
    """Whether just one of two conditions holds."""
    return g.pointwise("where", a, g.pointwise("not", b), b)


# --- rounding and remainders ------------------------------------------------------------------------------------------
@rule("round")
def _round(g: Graph, x: Node, decimals: int = 0) -> Value:
    if not decimals:
        return g.pointwise("round", real(g, x))
    scale = 10.0 ** abs(decimals)
    if decimals < 0:
        return mul(g, g.pointwise("round", g.pointwise("div", x, g.constant(scale))), scale)
    return g.pointwise("div", g.pointwise("round", mul(g, x, scale)), g.constant(scale))


def _crosses(g: Graph, left: Node, b: Node) -> Node:
    """Whether a division has to be corrected by one so that what is left has the sign of b."""
    other = _differ(g, _negative(g, left), _negative(g, b))
    return g.pointwise("and", g.pointwise("not", _is_zero(g, left)), other)


@rule("remainder")
def _remainder(g: Graph, a: Any, b: Any) -> Node:
    a, b = real(g, a), real(g, b)
    left = g.pointwise("fmod", a, b)
    value = _choose(g, _crosses(g, left, b), g.pointwise("add", left, b), left)
    return g.given(value, (a, g.constant(1.0)), (b, g.pointwise("neg", _floor_divide(g, a, b))))


@rule("floor_divide")
def _floor_divide(g: Graph, a: Any, b: Any) -> Node:
    a, b = real(g, a), real(g, b)
    left = g.pointwise("fmod", a, b)
    whole = g.pointwise("div", g.pointwise("sub", a, left), b)
    whole = g.pointwise("round", _choose(g, _is_zero(g, b), g.pointwise("div", a, b), whole))
    whole = _choose(g, _crosses(g, left, b), g.pointwise("sub", whole, g.constant(1.0)), whole)
    return g.pointwise("stop", whole)


def _rounded(divide: Callable[..., Value]) -> Callable[..., Value]:
    """The rule of division, with a mode of rounding."""

    def div(g: Graph, a: Any, b: Any, rounding_mode: str | None = None) -> Value:
        if rounding_mode == "floor":
            return _floor_divide(g, a, b)
        quotient = divide(g, a, b)
        return quotient if rounding_mode is None else g.pointwise("stop", g.pointwise("trunc", real(g, quotient)))

    return div


rule("div")(_rounded(LOWERING["div"]))


# --- signs and special numbers ----------------------------------------------------------------------------------------
def _has_minus(g: Graph, x: Node) -> Node:
    """Whether a number has a minus sign, zero included; NaN counts as without."""
    below = _negative(g, g.pointwise("div", g.constant(1.0), x))
    return g.pointwise("or", _negative(g, x), g.pointwise("and", _is_zero(g, x), below))


rule("signbit")(lambda g, x: _has_minus(g, real(g, x)))


@rule("copysign")
def _copysign(g: Graph, size: Any, sign: Any) -> Node:
    size, minus = real(g, size), _has_minus(g, g.pointwise("copy", real(g, sign)))
    value = _choose(g, _differ(g, _negative(g, size), minus), g.pointwise("neg", size), size)
    return g.given(value, (size, _choose(g, _is_zero(g, size), 0.0, divide(g, value, size))))


@rule("heaviside")
def _heaviside(g: Graph, x: Any, at_zero: Any) -> Node:
    x, at_zero = (g.pointwise("stop", real(g, part)) for part in (x, at_zero))
    step = _choose(g, g.pointwise("lt", g.constant(0.0), x), 1.0, 0.0)
    return _choose(g, _is_zero(g, x), at_zero, step)


def _is_infinite(g: Graph, x: Node) -> Node:
    return g.pointwise("eq", g.pointwise("abs", x), g.constant(math.inf))


rule("isinf")(lambda g, x: _is_infinite(g, real(g, x)))
rule("isposinf")(lambda g, x: g.pointwise("eq", real(g, x), g.constant(math.inf)))
rule("isneginf")(lambda g, x: g.pointwise("eq", real(g, x), g.constant(-math.inf)))


@rule("fmax", "fmin")
def _not_nan(g: Graph, a: Any, b: Any, op: str = "maximum") -> Node:
    a, b = real(g, a), real(g, b)
    known = [g.pointwise("eq", x, x) for x in (a, b)]
    value = _choose(g, known[0], _choose(g, known[1], g.pointwise(op, a, b), a), b)
    # Of two that are equal the first has it all.
    first, second = (a, b) if op == "minimum" else (b, a)
    taken = g.pointwise("or", g.pointwise("le", first, second), g.pointwise("not", known[1]))
    return g.given(value, (a, _choose(g, taken, 1.0, 0.0)), (b, _choose(g, taken, 0.0, 1.0)))


LOWERING["fmin"] = lambda g, a, b: _not_nan(g, a, b, "minimum")


@rule("logical_xor")
def _xor(g: Graph, a: Any, b: Any) -> Node:
    return _differ(g, boolean(g, a), boolean(g, b))


@rule("bitwise_xor")
def _bitwise_xor(g: Graph, a: Any, b: Any) -> Node:
    return _differ(g, condition(g, a), condition(g, b))


# --- lengths and angles -----------------------------------------------------------------------------------------------
@rule("angle")
def _angle(g: Graph, x: Value) -> Node:
    if isinstance(x, Pair):
        square = g.pointwise("add", g.pointwise("mul", x.real, x.real), g.pointwise("mul", x.imag, x.imag))
        nowhere = g.pointwise("and", _is_zero(g, x.real), _is_zero(g, x.imag))
        turn = [_choose(g, nowhere, 0.0, divide(g, part, square)) for part in (x.real, x.imag)]
        value = g.pointwise("atan2", x.imag, x.real)
        return g.given(value, (x.real, g.pointwise("neg", turn[1])), (x.imag, turn[0]))
    x = g.pointwise("stop", real(g, x))
    return _choose(g, g.pointwise("eq", x, x), _choose(g, _negative(g, x), math.pi, 0.0), x)
