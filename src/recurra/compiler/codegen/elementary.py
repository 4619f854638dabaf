"""exp, log, tanh and the like as branch-free arithmetic on vectors of any width, float or double.

Arguments are reduced to a small interval, where a polynomial serves; special values come out of selects. NaN goes in
and comes out. Each polynomial interpolates its function at the Chebyshev nodes of the interval, solved in 60 digits;
tests measure every function against exact values over the whole range.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from recurra.compiler.codegen.coefficients import ERF_FAR, ERF_NEAR, EXP, EXPM1, LOG
from recurra.compiler.codegen.emitter import Emitter, Value

LN2 = ((0.693359375, -2.12194440054690583e-4), (0.693147180369123816490, 1.90821492927058770002e-10))
"""The logarithm of 2 in two parts, the first with few enough bits that small multiples are exact."""
LOG2_E = 1.4426950408889634
ATANH = tuple(2 / (2 * i + 5) for i in range(11))
"""Coefficients of 2 atanh(s) / s in s^2, from the third on."""


def _double(x: Value) -> int:
    """Index into tables that hold one entry for float and one for double."""
    return int(x.type.scalar == "double")


def _k(e: Emitter, value: float, like: Value) -> Value:
    return e.constant(value, like.type)


def _int(e: Emitter, value: int, like: Value) -> Value:
    return e.constant(value, like.type.of(f"i{like.type.bits}"))


def polynomial(e: Emitter, coefficients: tuple[float, ...], x: Value) -> Value:
    """By Horner's rule, lowest power first."""
    total = _k(e, coefficients[-1], x)
    for c in reversed(coefficients[:-1]):
        total = e.fma(total, x, _k(e, c, x))
    return total


def _at_most(e: Emitter, x: Value, limit: float) -> Value:
    """min(x, limit), NaN staying NaN."""
    return e.select(e.compare("ogt", x, _k(e, limit, x)), _k(e, limit, x), x)


def _at_least(e: Emitter, x: Value, limit: float) -> Value:
    return e.select(e.compare("olt", x, _k(e, limit, x)), _k(e, limit, x), x)


def _whole(e: Emitter, x: Value) -> tuple[Value, Value]:
    """The nearest whole number as float and as integer. Adding 1.5 * 2^mantissa puts it into the lowest bits."""
    shift = _k(e, 1.5 * 2.0 ** (52 if _double(x) else 23), x)
    moved = e.add(x, shift)
    number = e.sub(moved, shift)
    return number, e.sub(_bits(e, moved), _bits(e, shift))


def _bits(e: Emitter, x: Value) -> Value:
    return e.convert("bitcast", x, f"i{x.type.bits}")


def _power_of_two(e: Emitter, n: Value, like: Value) -> Value:
    """2^n for an integer n within the range of exponents."""
    places, one = (52, 0x3FF0000000000000) if _double(like) else (23, 0x3F800000)
    bits = e.add(e.bitwise("shl", n, _int(e, places, like)), _int(e, one, like))
    return e.convert("bitcast", bits, like.type.scalar)


def _reduce(e: Emitter, x: Value) -> tuple[Value, Value]:
    """x = n log 2 + r with |r| <= log(2)/2: r as float and n as integer."""
    high, low = LN2[_double(x)]
    number, n = _whole(e, e.mul(x, _k(e, LOG2_E, x)))
    r = e.fma(number, _k(e, -high, x), x)
    return e.fma(number, _k(e, -low, x), r), n


def exp(e: Emitter, x: Value) -> Value:
    """e^x. The power of two is applied in two steps, so that denormal results and overflow come out right."""
    low, high = ((-104.0, 89.0), (-746.0, 710.0))[_double(x)]
    return _exp_within(e, _at_least(e, _at_most(e, x, high), low))


def _exp_within(e: Emitter, x: Value) -> Value:
    return _exp_of_parts(e, *_reduce(e, x))


def _exp_of_parts(e: Emitter, r: Value, n: Value) -> Value:
    """2^n e^r."""
    p = polynomial(e, EXP[_double(r)], r)
    half = e.bitwise("ashr", n, _int(e, 1, r))
    return e.mul(e.mul(p, _power_of_two(e, half, r)), _power_of_two(e, e.sub(n, half), r))


def exp2(e: Emitter, x: Value) -> Value:
    """2^x."""
    low, high = ((-151.0, 129.0), (-1076.0, 1025.0))[_double(x)]
    x = _at_least(e, _at_most(e, x, high), low)
    number, n = _whole(e, x)
    return _exp_of_parts(e, e.mul(e.sub(x, number), _k(e, math.log(2), x)), n)


def expm1(e: Emitter, x: Value) -> Value:
    """e^x - 1, with all its digits near 0."""
    low, high = ((-20.0, 89.0), (-40.0, 710.0))[_double(x)]
    result = _expm1_within(e, _at_least(e, _at_most(e, x, high), low))
    return e.select(e.compare("oeq", x, _k(e, 0.0, x)), x, result)


def _expm1_within(e: Emitter, x: Value) -> Value:
    r, n = _reduce(e, x)
    p = e.fma(polynomial(e, EXPM1[_double(x)], r), e.mul(r, r), r)
    scale = _power_of_two(e, e.sub(n, _int(e, 1, x)), x)
    half = e.fma(scale, p, e.sub(scale, _k(e, 0.5, x)))
    return e.add(half, half)


def log(e: Emitter, x: Value) -> Value:
    """Natural logarithm; -inf at 0, NaN below."""
    return _with_ends(e, x, _log_near_one(e, *_fraction_and_exponent(e, x)))


def log2(e: Emitter, x: Value) -> Value:
    """Logarithm to base 2, exact at powers of 2."""
    f, k = _fraction_and_exponent(e, x)
    return _with_ends(e, x, e.fma(_log_near_one(e, f, _k(e, 0.0, f)), _k(e, LOG2_E, f), k))


def _with_ends(e: Emitter, x: Value, result: Value) -> Value:
    """A logarithm with what it is at infinity, at 0 and below."""
    result = e.select(e.compare("oeq", x, _k(e, float("inf"), x)), x, result)
    result = e.select(e.compare("oeq", x, _k(e, 0.0, x)), _k(e, float("-inf"), x), result)
    return e.select(e.compare("ult", x, _k(e, 0.0, x)), _k(e, float("nan"), x), result)


def _fraction_and_exponent(e: Emitter, x: Value) -> tuple[Value, Value]:
    """f and k, both floats, of x = 2^k (1 + f), with 1 + f between the roots of 1/2 and 2."""
    smallest, places = ((2.0**-126, 23), (2.0**-1022, 52))[_double(x)]
    tiny = e.compare("olt", x, _k(e, smallest, x))
    normal = e.select(tiny, e.mul(x, _k(e, 2.0**places, x)), x)
    root = _bits(e, _k(e, 0.5**0.5, x))
    exponent = e.bitwise("ashr", e.sub(_bits(e, normal), root), _int(e, places, x))
    mantissa = e.sub(_bits(e, normal), e.bitwise("shl", exponent, _int(e, places, x)))
    f = e.sub(e.convert("bitcast", mantissa, x.type.scalar), _k(e, 1.0, x))
    k = e.convert("sitofp", exponent, x.type.scalar)
    return f, e.select(tiny, e.sub(k, _k(e, places, x)), k)


def _log_near_one(e: Emitter, f: Value, k: Value) -> Value:
    """k log 2 + log(1 + f), by 2 atanh(f / (2 + f)) with the largest term, f, added last."""
    high, low = LN2[_double(f)]
    half_square = e.mul(_k(e, 0.5, f), e.mul(f, f))
    s = e.div(f, e.add(f, _k(e, 2.0, f)))
    z = e.mul(s, s)
    rest = e.mul(z, polynomial(e, LOG[_double(f)], z))
    inner = e.fma(s, e.add(half_square, rest), e.mul(k, _k(e, low, f)))
    return e.fma(k, _k(e, high, f), e.sub(f, e.sub(half_square, inner)))


def log1p(e: Emitter, x: Value) -> Value:
    """log(1 + x), with all its digits near 0."""
    one = _k(e, 1.0, x)
    u = e.add(x, one)
    lost = e.sub(x, e.sub(u, one))
    result = e.add(log(e, u), e.div(lost, u))
    unbounded = e.compare("oeq", e.abs(u), _k(e, float("inf"), x))
    at_minus_one = e.compare("oeq", u, _k(e, 0.0, x))
    result = e.select(e.bitwise("or", unbounded, at_minus_one), log(e, u), result)
    return e.select(e.compare("oeq", u, one), x, result)


def sigmoid(e: Emitter, x: Value) -> Value:
    """1 / (1 + e^-x), from e^-|x| so that small results keep their digits."""
    one = _k(e, 1.0, x)
    low = (-104.0, -746.0)[_double(x)]
    small = _exp_within(e, _at_least(e, e.neg(e.abs(x)), low))
    return e.div(e.select(e.compare("olt", x, _k(e, 0.0, x)), small, one), e.add(one, small))


def tanh(e: Emitter, x: Value) -> Value:
    """Hyperbolic tangent, as expm1(2a) / (expm1(2a) + 2) of a = |x|."""
    a = _at_most(e, e.abs(x), (10.0, 20.0)[_double(x)])
    t = _expm1_within(e, e.add(a, a))
    return e.copysign(e.div(t, e.add(t, _k(e, 2.0, x))), x)


def softplus(e: Emitter, x: Value) -> Value:
    """log(1 + e^x)."""
    positive = _at_least(e, x, 0.0)
    low = (-104.0, -746.0)[_double(x)]
    return e.add(positive, log1p(e, _exp_within(e, _at_least(e, e.neg(e.abs(x)), low))))


def erf(e: Emitter, x: Value) -> Value:
    """The error function: odd polynomial up to 1, beyond it 1 - t exp(-a^2 + polynomial in t), t = 2 / (2 + a)."""
    end, middle, scale, coefficients = ERF_FAR[_double(x)]
    size = e.abs(x)
    near = e.mul(x, polynomial(e, ERF_NEAR[_double(x)], e.mul(x, x)))
    a = _at_most(e, size, end)
    t = e.div(_k(e, 2.0, x), e.add(a, _k(e, 2.0, x)))
    exponent = polynomial(e, coefficients, e.mul(e.sub(t, _k(e, middle, x)), _k(e, scale, x)))
    complement = e.mul(t, _exp_within(e, e.fma(e.neg(a), a, exponent)))
    far = e.copysign(e.sub(_k(e, 1.0, x), complement), x)
    return e.select(e.compare("olt", size, _k(e, 1.0, x)), near, far)


def _log_in_two(e: Emitter, x: Value) -> tuple[Value, Value]:
    """The logarithm of a double above 0 in two parts, which together have some ten more bits than one.

    As `_log_near_one`, with the two largest terms, 2s and 2/3 s^3, and the sum in two parts each.
    """
    f, k = _fraction_and_exponent(e, x)
    two, high, low = _k(e, 2.0, x), *(_k(e, part, x) for part in LN2[1])
    under = e.add(f, two)
    s = e.div(f, under)
    # What the quotient and the sum below it lost.
    lost = e.fma(e.neg(s), under, f)
    s_low = e.div(e.fma(e.neg(s), e.sub(f, e.sub(under, two)), lost), under)
    z = e.mul(s, s)
    z_low = e.fma(s, s, e.neg(z))
    z_low = e.fma(e.add(s, s), s_low, z_low)
    third = _k(e, 2 / 3, x)
    rest = e.fma(z, polynomial(e, ATANH, z), _k(e, 3.7007434154171886e-17, x))
    factor = e.add(third, rest)
    factor_low = e.sub(rest, e.sub(factor, third))
    cube = e.mul(s, z)
    cube_low = e.fma(s_low, z, e.fma(s, z_low, e.fma(s, z, e.neg(cube))))
    term = e.mul(cube, factor)
    term_low = e.fma(cube_low, factor, e.fma(cube, factor_low, e.fma(cube, factor, e.neg(term))))
    first = e.add(s, s)
    near = e.add(first, term)
    near_low = e.add(e.add(e.sub(term, e.sub(near, first)), term_low), e.add(s_low, s_low))
    whole = e.mul(k, high)
    total = e.add(whole, near)
    return total, e.fma(k, low, e.add(e.sub(near, e.sub(total, whole)), near_low))


def _growth(e: Emitter, x: Value, y: Value) -> Value:
    """e^(y log x) of doubles, x at least 0, within 2 ulp: the exponent in two parts."""
    zero, endless = _k(e, 0.0, x), _k(e, float("inf"), x)
    total, low = _log_in_two(e, x)
    special = e.bitwise("or", e.compare("oeq", x, zero), e.compare("ueq", x, endless))
    total = e.select(special, log(e, x), total)
    exponent = e.mul(y, total)
    rest = e.fma(y, low, e.fma(y, total, e.neg(exponent)))
    held = _at_least(e, _at_most(e, exponent, 710.0), -746.0)
    r, n = _reduce(e, held)
    # Beyond these ends the rest is beside the point, and it is NaN where the exponent is infinite.
    rest = e.select(e.compare("one", held, exponent), zero, rest)
    return _exp_of_parts(e, e.add(r, e.select(special, zero, rest)), n)


def power(e: Emitter, x: Value, y: Value) -> Value:
    """x^y as exp(y log|x|), with the sign and special values of `pow`. Float is computed in double; y may be one."""
    if not _double(x):
        wide = _power(e, e.convert("fpext", x, "double"), e.convert("fpext", y, "double"), _plain_growth)
        return e.convert("fptrunc", wide, "float")
    return _power(e, x, y, _growth)


def _plain_growth(e: Emitter, x: Value, y: Value) -> Value:
    """e^(y log x), which loses |y log x| ulp to the rounding of the exponent: of no weight in a float."""
    return exp(e, e.mul(y, log(e, x)))


def _power(e: Emitter, x: Value, y: Value, growth: Callable[[Emitter, Value, Value], Value]) -> Value:
    zero, one = _k(e, 0.0, x), _k(e, 1.0, x)
    whole = e.intrinsic("floor", x.type, y)
    half = e.mul(y, _k(e, 0.5, x))
    is_whole = e.compare("oeq", whole, y)
    is_odd = e.bitwise("and", is_whole, e.compare("une", e.intrinsic("floor", x.type, half), half))
    size = growth(e, e.abs(x), y)
    # A sign survives in zero as well, so the sign bit decides, not a comparison with zero.
    sign_bit = e.compare("slt", _bits(e, x), _int(e, 0, x))
    result = e.select(e.bitwise("and", sign_bit, is_odd), e.neg(size), size)
    below_zero = e.bitwise("and", e.compare("olt", x, zero), e.compare("une", x, _k(e, float("-inf"), x)))
    invalid = e.bitwise("and", below_zero, e.bitwise("xor", is_whole, e.constant(-1, is_whole.type)))
    result = e.select(invalid, _k(e, float("nan"), x), result)
    minus_one_to_inf = e.bitwise(
        "and", e.compare("oeq", x, _k(e, -1.0, x)), e.compare("oeq", e.abs(y), _k(e, float("inf"), x))
    )
    trivial = e.bitwise("or", e.compare("oeq", y, zero), e.bitwise("or", e.compare("oeq", x, one), minus_one_to_inf))
    return e.select(trivial, one, result)


def hypot(e: Emitter, x: Value, y: Value) -> Value:
    """The root of x^2 + y^2, in range wherever that is: float is computed in double, and doubles are brought near 1."""
    a, b, endless = e.abs(x), e.abs(y), _k(e, float("inf"), x)
    if _double(x):
        # Powers of two, from the exponent of the larger one; NaN and infinity pass all of it.
        low, high, places = _int(e, 1, x), _int(e, 2045, x), _int(e, 52, x)
        bits = [e.bitwise("lshr", _bits(e, size), places) for size in (a, b)]
        exponent = e.select(e.compare("sgt", *bits), *bits)
        exponent = e.select(e.compare("slt", exponent, low), low, exponent)
        exponent = e.select(e.compare("sgt", exponent, high), high, exponent)
        back = e.convert("bitcast", e.bitwise("shl", exponent, places), "double")
        scale = e.convert("bitcast", e.bitwise("shl", e.sub(_int(e, 2046, x), exponent), places), "double")
        p, q = e.mul(a, scale), e.mul(b, scale)
        result = e.mul(e.sqrt(e.fma(p, p, e.mul(q, q))), back)
    else:
        p, q = e.convert("fpext", a, "double"), e.convert("fpext", b, "double")
        result = e.convert("fptrunc", e.sqrt(e.fma(p, p, e.mul(q, q))), "float")
    is_endless = e.bitwise("or", e.compare("oeq", a, endless), e.compare("oeq", b, endless))
    return e.select(is_endless, endless, result)


def fmod(e: Emitter, a: Value, b: Value) -> Value:
    """What dividing to a whole number leaves, with the sign of a; exact.

    As long as whole quotients are exact, a rounded one is at most one too large, and then what it leaves is below zero.
    Where a vector holds a larger one, a call per number takes the short way's place.
    """
    x, y = e.abs(a), e.abs(b)
    quotient = e.div(x, y)
    whole = e.intrinsic("trunc", x.type, quotient)
    left = e.fma(e.neg(whole), y, x)
    left = e.select(e.compare("olt", left, _k(e, 0.0, x)), e.add(left, y), left)
    # Where nothing is taken away, an infinite b must not be multiplied by zero.
    left = e.select(e.compare("oeq", whole, _k(e, 0.0, x)), x, left)
    result = e.variable(e.copysign(left, a))
    with e.when(e.any(e.compare("oge", quotient, _k(e, 2.0 ** (53 if _double(x) else 24), x)))):
        e.set(result, e.remainder(a, b))
    return e.get(result)


ELEMENTARY = {
    "exp": exp,
    "exp2": exp2,
    "expm1": expm1,
    "log": log,
    "log2": log2,
    "log1p": log1p,
    "sigmoid": sigmoid,
    "tanh": tanh,
    "softplus": softplus,
    "erf": erf,
    "pow": power,
    "hypot": hypot,
    "fmod": fmod,
}
"""Operation of the graph -> function(emitter, arguments)."""
