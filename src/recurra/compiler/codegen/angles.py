"""Angles and hyperbolic angles, their functions and the inverses of these, and the complement of erf, as branch-free
arithmetic on vectors of any width.

Made of what `elementary` has, and measured as that is: within 4 ulp over the whole range, NaN in, NaN out.
"""

from __future__ import annotations

import math

from recurra.compiler.codegen.circular import cos, sin
from recurra.compiler.codegen.coefficients import ATAN, ERF_NEAR, ERFC
from recurra.compiler.codegen.elementary import (
    _at_least,
    _at_most,
    _double,
    _exp_within,
    _k,
    exp,
    expm1,
    log,
    log1p,
    polynomial,
)
from recurra.compiler.codegen.emitter import Emitter, Value

PI_LOW = (-8.742277657347586e-08, 1.2246467991473532e-16)
"""What pi is more than the nearest float or double."""
TURN = math.sqrt(2) - 1
"""The tangent of pi/8."""


def tan(e: Emitter, x: Value) -> Value:
    """Tangent. Sine and cosine share the reduction of their argument."""
    return e.div(sin(e, x), cos(e, x))


def _direction(e: Emitter, y: Value, x: Value) -> Value:
    """The angle of (x, y), both at least 0: in [0, pi/2]."""
    one, zero = _k(e, 1.0, x), _k(e, 0.0, x)
    steep = e.compare("ogt", y, x)
    low, high = e.select(steep, x, y), e.select(steep, y, x)
    t = e.select(e.compare("oeq", low, high), one, e.div(low, high))
    t = e.select(e.compare("oeq", low, zero), zero, t)
    middle = e.compare("ogt", t, _k(e, TURN, x))
    r = e.select(middle, e.div(e.sub(t, one), e.add(t, one)), t)
    z = e.mul(r, r)
    angle = e.fma(e.mul(r, z), polynomial(e, ATAN[_double(x)], z), r)
    angle = e.select(middle, _less_than_turn(e, 0.25, e.neg(angle)), angle)
    angle = e.select(steep, _less_than_turn(e, 0.5, angle), angle)
    return e.select(e.compare("uno", y, x), e.add(y, x), angle)


def _less_than_turn(e: Emitter, part: float, angle: Value) -> Value:
    """part * pi - angle, where pi has more digits than the type."""
    low = part * PI_LOW[_double(angle)]
    pi = math.pi if _double(angle) else 3.1415927410125732
    return e.sub(_k(e, part * pi, angle), e.sub(angle, _k(e, low, angle)))


def atan(e: Emitter, x: Value) -> Value:
    """Inverse tangent."""
    return e.copysign(_direction(e, e.abs(x), _k(e, 1.0, x)), x)


def atan2(e: Emitter, y: Value, x: Value) -> Value:
    """The angle of (x, y), in [-pi, pi], by the signs of zeros as well."""
    return e.copysign(_from_sign(e, _direction(e, e.abs(y), e.abs(x)), x), y)


def _from_sign(e: Emitter, angle: Value, x: Value) -> Value:
    """An angle, or pi less it where x has a minus sign."""
    left = e.compare("olt", e.copysign(_k(e, 1.0, x), x), _k(e, 0.0, x))
    return e.select(left, _less_than_turn(e, 1.0, angle), angle)


def _opposite(e: Emitter, x: Value) -> tuple[Value, Value]:
    """|x|, and the root of 1 - x^2 without the loss of digits near 1."""
    size, one = e.abs(x), _k(e, 1.0, x)
    return size, e.sqrt(e.mul(e.sub(one, size), e.add(one, size)))


def asin(e: Emitter, x: Value) -> Value:
    """Inverse sine; NaN beyond 1."""
    size, other = _opposite(e, x)
    return e.copysign(_direction(e, size, other), x)


def acos(e: Emitter, x: Value) -> Value:
    """Inverse cosine; NaN beyond 1."""
    size, other = _opposite(e, x)
    return _from_sign(e, _direction(e, other, size), x)


def _growth(e: Emitter, a: Value) -> Value:
    """e^a / 2 for a at least 1, finite wherever that is."""
    root = exp(e, e.mul(a, _k(e, 0.5, a)))
    return e.mul(e.mul(root, _k(e, 0.5, a)), root)


def sinh(e: Emitter, x: Value) -> Value:
    """Hyperbolic sine."""
    a, half = e.abs(x), _k(e, 0.5, x)
    t = expm1(e, _at_most(e, a, 20.0))
    near = e.mul(half, e.add(t, e.div(t, e.add(t, _k(e, 1.0, x)))))
    return e.copysign(e.select(e.compare("ogt", a, _k(e, 20.0, x)), _growth(e, a), near), x)


def cosh(e: Emitter, x: Value) -> Value:
    """Hyperbolic cosine."""
    a, half = e.abs(x), _k(e, 0.5, x)
    t = exp(e, _at_most(e, a, 20.0))
    near = e.fma(half, t, e.div(half, t))
    return e.select(e.compare("ogt", a, _k(e, 20.0, x)), _growth(e, a), near)


def _log_of_double(e: Emitter, a: Value) -> Value:
    """log(2a)."""
    return e.add(log(e, a), _k(e, math.log(2), a))


def asinh(e: Emitter, x: Value) -> Value:
    """Inverse hyperbolic sine: log1p(a + a^2 / (1 + sqrt(1 + a^2))) of a = |x|."""
    a, one, large = e.abs(x), _k(e, 1.0, x), 2.0**13 if not _double(x) else 2.0**28
    held = _at_most(e, a, large)
    square = e.mul(held, held)
    near = log1p(e, e.add(held, e.div(square, e.add(one, e.sqrt(e.add(one, square))))))
    return e.copysign(e.select(e.compare("ogt", a, _k(e, large, x)), _log_of_double(e, a), near), x)


def acosh(e: Emitter, x: Value) -> Value:
    """Inverse hyperbolic cosine: log1p(t + sqrt(2t + t^2)) of t = x - 1; NaN below 1."""
    large = 2.0**13 if not _double(x) else 2.0**28
    t = e.sub(_at_most(e, x, large), _k(e, 1.0, x))
    near = log1p(e, e.add(t, e.sqrt(e.fma(t, t, e.add(t, t)))))
    near = e.select(e.compare("olt", x, _k(e, 1.0, x)), _k(e, math.nan, x), near)
    return e.select(e.compare("ogt", x, _k(e, large, x)), _log_of_double(e, x), near)


def atanh(e: Emitter, x: Value) -> Value:
    """Inverse hyperbolic tangent: log1p(2a / (1 - a)) / 2 of a = |x|; infinite at 1, NaN beyond."""
    a = e.abs(x)
    grown = log1p(e, e.div(e.add(a, a), e.sub(_k(e, 1.0, x), a)))
    return e.copysign(e.mul(_k(e, 0.5, x), grown), x)


def erfc(e: Emitter, x: Value) -> Value:
    """1 - erf(x) with all its digits: t exp(-a^2) times a polynomial in t = 2 / (2 + a), from a = 1/2 on.

    What is lost by rounding the square, 2 + a and t is put right to first order: the first counts as many times as the
    square is large.
    """
    end, middle, scale, coefficients = ERFC[_double(x)]
    size, one, two = e.abs(x), _k(e, 1.0, x), _k(e, 2.0, x)
    near = e.sub(one, e.mul(x, polynomial(e, ERF_NEAR[_double(x)], e.mul(x, x))))
    a = _at_least(e, _at_most(e, size, end), 0.5)
    under = e.add(a, two)
    t = e.div(two, under)
    square = e.mul(a, a)
    lost = e.add(e.fma(a, a, e.neg(square)), e.mul(e.mul(t, _k(e, 0.5, x)), e.sub(a, e.sub(under, two))))
    lost = e.fma(_k(e, -0.5, x), e.fma(e.neg(t), under, two), lost)
    share = polynomial(e, coefficients, e.mul(e.sub(t, _k(e, middle, x)), _k(e, scale, x)))
    share = e.mul(t, e.fma(e.neg(share), lost, share))
    tail = e.mul(share, _exp_within(e, e.neg(square)))
    tail = e.select(e.compare("olt", x, _k(e, 0.0, x)), e.sub(two, tail), tail)
    return e.select(e.compare("olt", size, _k(e, 0.5, x)), near, tail)


ANGLES = {
    "tan": tan,
    "atan": atan,
    "atan2": atan2,
    "asin": asin,
    "acos": acos,
    "sinh": sinh,
    "cosh": cosh,
    "asinh": asinh,
    "acosh": acosh,
    "atanh": atanh,
    "erfc": erfc,
}
"""Operation of the graph -> function(emitter, arguments)."""
