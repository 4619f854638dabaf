"""Functions of complex values in terms of real ones; see `lowering`. The same names as for real values, which keep
their own rules.

The inverse functions follow W. Kahan, "Branch cuts for complex elementary functions" (1987).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from recurra.compiler.frontend import lowering_pointwise  # noqa: F401  (the rules of real values come first)
from recurra.compiler.frontend.graph import Graph, Node
from recurra.compiler.frontend.lowering import LOWERING, add, as_node, conj, mul, pair, real, rule
from recurra.compiler.frontend.lowering_norms import root
from recurra.compiler.frontend.values import Pair, Value

MOST_FACTORS = 16
"""Whole powers up to this are products; others go by the logarithm."""


def complex_rule(*names: str) -> Callable[[Callable], Callable]:
    """Enter a function for complex first arguments, or second ones; real ones keep the rule they have."""

    def enter(function: Callable) -> Callable:
        for name in names:
            rule(name)(_either(function, LOWERING.get(name)))
        return function

    return enter


def _either(of_complex: Callable, of_real: Callable | None) -> Callable:
    def lowered(g: Graph, *args: Any, **kwargs: Any) -> Any:
        if any(isinstance(arg, Pair | complex) for arg in args):
            return of_complex(g, *args, **kwargs)
        if of_real is None:
            raise TypeError("real operands")
        return of_real(g, *args, **kwargs)

    return lowered


def _times_i(g: Graph, z: Pair, sign: float = 1) -> Pair:
    """i z, or -i z."""
    if sign > 0:
        return Pair(g.pointwise("neg", z.imag), z.real)
    return Pair(z.imag, g.pointwise("neg", z.real))


def _p(g: Graph, op: str, *args: Any) -> Node:
    return g.pointwise(op, *(real(g, a) for a in args))


# --- variances --------------------------------------------------------------------------------------------------------
@complex_rule("var", "var_mean")
def _var(g: Graph, z: Pair, axes: Any = None, correction: float | None = None, keepdim: bool = False) -> Node:
    """That of the real parts and that of the imaginary ones."""
    return _p(g, "add", *(LOWERING["var"](g, part, axes, correction, keepdim) for part in (z.real, z.imag)))


complex_rule("std")(lambda g, z, *args, **kwargs: root(g, _var(g, z, *args, **kwargs)))


@rule("baddbmm")
def _baddbmm(g: Graph, c: Value, a: Value, b: Value, beta: complex = 1, alpha: complex = 1) -> Value:
    return add(g, mul(g, c, beta), mul(g, LOWERING["bmm"](g, a, b), alpha))


# --- comparison -------------------------------------------------------------------------------------------------------
@complex_rule("eq")
def _eq(g: Graph, a: Any, b: Any) -> Node:
    a, b = pair(g, a), pair(g, b)
    return g.pointwise("and", g.pointwise("eq", a.real, b.real), g.pointwise("eq", a.imag, b.imag))


complex_rule("ne")(lambda g, a, b: g.pointwise("not", _eq(g, a, b)))
complex_rule("isnan")(lambda g, z: g.pointwise("or", LOWERING["isnan"](g, z.real), LOWERING["isnan"](g, z.imag)))
complex_rule("isinf")(lambda g, z: g.pointwise("or", LOWERING["isinf"](g, z.real), LOWERING["isinf"](g, z.imag)))


# --- exponentials and logarithms --------------------------------------------------------------------------------------
@complex_rule("log")
def _log(g: Graph, z: Pair) -> Pair:
    return Pair(g.pointwise("log", LOWERING["abs"](g, z)), g.pointwise("atan2", z.imag, z.real))


complex_rule("log2")(lambda g, z: mul(g, _log(g, z), 1 / math.log(2)))
complex_rule("log10")(lambda g, z: mul(g, _log(g, z), 1 / math.log(10)))


@complex_rule("log1p")
def _log1p(g: Graph, z: Pair) -> Pair:
    """Near 0 by log1p of |1 + z|^2 - 1."""
    outer = _log(g, pair(g, add(g, z, 1.0)))
    grown = _p(g, "add", _p(g, "mul", z.real, _p(g, "add", z.real, 2.0)), _p(g, "mul", z.imag, z.imag))
    near = _p(g, "lt", _p(g, "maximum", _p(g, "abs", z.real), _p(g, "abs", z.imag)), 0.5)
    held = g.pointwise("where", near, grown, g.constant(0.0))
    return Pair(g.pointwise("where", near, _p(g, "mul", 0.5, g.pointwise("log1p", held)), outer.real), outer.imag)


@complex_rule("expm1")
def _expm1(g: Graph, z: Pair) -> Pair:
    half = g.pointwise("sin", _p(g, "mul", 0.5, z.imag))
    less = _p(g, "mul", 2.0, _p(g, "mul", half, half))
    size = _p(g, "mul", g.pointwise("expm1", z.real), g.pointwise("cos", z.imag))
    return Pair(_p(g, "sub", size, less), LOWERING["exp"](g, z).imag)


@complex_rule("exp2")
def _exp2(g: Graph, z: Pair) -> Value:
    return LOWERING["exp"](g, mul(g, z, math.log(2)))


@complex_rule("sigmoid")
def _sigmoid(g: Graph, z: Pair) -> Value:
    """By exp of whichever of z and -z makes it small."""
    right = _p(g, "le", 0.0, z.real)
    small = LOWERING["exp"](g, LOWERING["where"](g, right, LOWERING["neg"](g, z), z))
    share = LOWERING["div"](g, 1.0, add(g, 1.0, small))
    return LOWERING["where"](g, right, share, mul(g, small, share))


complex_rule("silu")(lambda g, z: mul(g, z, _sigmoid(g, z)))


# --- powers -----------------------------------------------------------------------------------------------------------
@complex_rule("sqrt")
def _sqrt(g: Graph, z: Pair) -> Pair:
    """By the part that does not cancel."""
    size = LOWERING["abs"](g, z)
    part = g.pointwise("sqrt", _p(g, "mul", 0.5, _p(g, "add", size, _p(g, "abs", z.real))))
    nothing = _p(g, "eq", part, 0.0)
    other = _p(g, "div", z.imag, g.pointwise("where", nothing, g.constant(1.0), _p(g, "mul", 2.0, part)))
    left = _p(g, "lt", z.real, 0.0)
    return Pair(
        g.pointwise("where", left, _p(g, "abs", other), part),
        g.pointwise("where", left, LOWERING["copysign"](g, part, z.imag), other),
    )


complex_rule("rsqrt")(lambda g, z: LOWERING["div"](g, 1.0, _sqrt(g, z)))


@complex_rule("pow")
def _pow(g: Graph, base: Any, exponent: Any) -> Value:
    base, exponent = as_node(g, base), as_node(g, exponent)
    known = g.value(exponent) if isinstance(exponent, Node) else None
    if known == 0.5:
        return _sqrt(g, pair(g, base))
    if known is not None and known == int(known) and abs(known) <= MOST_FACTORS:
        power = _whole_power(g, base, abs(int(known)))
        return power if known >= 0 else LOWERING["div"](g, 1.0, power)
    base = pair(g, base)
    nothing = g.pointwise("and", _p(g, "eq", base.real, 0.0), _p(g, "eq", base.imag, 0.0))
    inside = LOWERING["where"](g, nothing, 1.0, base)
    power = LOWERING["exp"](g, mul(g, exponent, _log(g, inside)))
    return LOWERING["where"](g, nothing, 0.0, power)


def _whole_power(g: Graph, base: Value, exponent: int) -> Value:
    if exponent == 0:
        return pair(g, g.expand(g.constant(1.0), base.shape))
    if exponent == 1:
        return base
    half = _whole_power(g, base, exponent // 2)
    square = mul(g, half, half)
    return mul(g, square, base) if exponent % 2 else square


# --- angles -----------------------------------------------------------------------------------------------------------
@complex_rule("sinh")
def _sinh(g: Graph, z: Pair) -> Pair:
    a, b = z.real, z.imag
    return Pair(
        _p(g, "mul", g.pointwise("sinh", a), g.pointwise("cos", b)),
        _p(g, "mul", g.pointwise("cosh", a), g.pointwise("sin", b)),
    )


@complex_rule("cosh")
def _cosh(g: Graph, z: Pair) -> Pair:
    a, b = z.real, z.imag
    return Pair(
        _p(g, "mul", g.pointwise("cosh", a), g.pointwise("cos", b)),
        _p(g, "mul", g.pointwise("sinh", a), g.pointwise("sin", b)),
    )


@complex_rule("tanh")
def _tanh(g: Graph, z: Pair) -> Pair:
    """(t + i s c (1 - t^2)) / (c^2 + t^2 s^2) of t = tanh(a), s = sin(b) and c = cos(b)."""
    t, s, c = g.pointwise("tanh", z.real), g.pointwise("sin", z.imag), g.pointwise("cos", z.imag)
    falling = _p(g, "div", 1.0, g.pointwise("cosh", z.real))
    ts = _p(g, "mul", t, s)
    under = _p(g, "add", _p(g, "mul", c, c), _p(g, "mul", ts, ts))
    upper = _p(g, "mul", _p(g, "mul", s, c), _p(g, "mul", falling, falling))
    return Pair(_p(g, "div", t, under), _p(g, "div", upper, under))


def _turned(function: Callable[[Graph, Pair], Pair]) -> Callable[[Graph, Pair], Pair]:
    """-i f(i z): what makes a function of angles from a hyperbolic one, and the other way round."""
    return lambda g, z: _times_i(g, function(g, _times_i(g, z)), -1)


complex_rule("sin")(_turned(_sinh))
complex_rule("tan")(_turned(_tanh))
complex_rule("cos")(lambda g, z: _cosh(g, _times_i(g, z)))


def _one_plus(g: Graph, z: Pair, sign: str) -> Pair:
    """The root of 1 + z, or of 1 - z."""
    return _sqrt(g, pair(g, add(g, 1.0, z, op=sign)))


@complex_rule("asin")
def _asin(g: Graph, z: Pair) -> Pair:
    plus, minus = _one_plus(g, z, "add"), _one_plus(g, z, "sub")
    product, mixed = pair(g, mul(g, plus, minus)), pair(g, mul(g, conj(g, minus), plus))
    return Pair(g.pointwise("atan2", z.real, product.real), g.pointwise("asinh", mixed.imag))


@complex_rule("acos")
def _acos(g: Graph, z: Pair) -> Pair:
    plus, minus = _one_plus(g, z, "add"), _one_plus(g, z, "sub")
    mixed = pair(g, mul(g, conj(g, plus), minus))
    return Pair(_p(g, "mul", 2.0, g.pointwise("atan2", minus.real, plus.real)), g.pointwise("asinh", mixed.imag))


@complex_rule("acosh")
def _acosh(g: Graph, z: Pair) -> Pair:
    minus, plus = _sqrt(g, pair(g, add(g, z, -1.0))), _one_plus(g, z, "add")
    mixed = pair(g, mul(g, conj(g, minus), plus))
    return Pair(g.pointwise("asinh", mixed.real), _p(g, "mul", 2.0, g.pointwise("atan2", minus.imag, plus.real)))


@complex_rule("atanh")
def _atanh(g: Graph, z: Pair) -> Pair:
    a, b = z.real, z.imag
    less, square = _p(g, "sub", 1.0, a), _p(g, "mul", b, b)
    grown = _p(g, "div", _p(g, "mul", 4.0, a), _p(g, "add", _p(g, "mul", less, less), square))
    across = _p(g, "sub", _p(g, "mul", less, _p(g, "add", 1.0, a)), square)
    angle = g.pointwise("atan2", _p(g, "mul", 2.0, b), across)
    return Pair(_p(g, "mul", 0.25, g.pointwise("log1p", grown)), _p(g, "mul", 0.5, angle))


complex_rule("asinh")(_turned(_asin))
complex_rule("atan")(_turned(_atanh))
