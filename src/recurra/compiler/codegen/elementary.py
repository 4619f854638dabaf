"""exp, log, tanh and the like as branch-free arithmetic on vectors of any width, float or double.

Arguments are reduced to a small interval, where a polynomial serves; special values come out of selects. NaN goes in
and comes out. Each polynomial interpolates its function at the Chebyshev nodes of the interval, solved in 60 digits;
tests measure every function against exact values over the whole range.
"""

from __future__ import annotations

from collections.abc import Callable

from recurra.compiler.codegen.coefficients import COS, ERF_FAR, ERF_NEAR, EXP, EXPM1, LOG, SIN
from recurra.compiler.codegen.emitter import Emitter, Value

LN2 = ((0.693359375, -2.12194440054690583e-4), (0.693147180369123816490, 1.90821492927058770002e-10))
"""The logarithm of 2 in two parts, the first with few enough bits that small multiples are exact."""
HALF_PI = (
    (1.5703125, 4.837512969970703125e-4, 7.54978995489188216e-8),
    (1.57079632673412561417, 6.07710050630396597660e-11, 2.02226624879595063154e-21),
)
LOG2_E = 1.4426950408889634


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
    r, n = _reduce(e, x)
    p = polynomial(e, EXP[_double(x)], r)
    half = e.bitwise("ashr", n, _int(e, 1, x))
    return e.mul(e.mul(p, _power_of_two(e, half, x)), _power_of_two(e, e.sub(n, half), x))


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
    return _logarithm(e, x, _log_near_one)


def log2(e: Emitter, x: Value) -> Value:
    """Logarithm to base 2, exact at powers of 2."""
    return _logarithm(e, x, lambda e, f, k: e.fma(_log_near_one(e, f, _k(e, 0.0, f)), _k(e, LOG2_E, f), k))


def _logarithm(e: Emitter, x: Value, of_parts: Callable[[Emitter, Value, Value], Value]) -> Value:
    """A logarithm, given how it comes of f and k, where x = 2^k (1 + f)."""
    smallest, places = ((2.0**-126, 23), (2.0**-1022, 52))[_double(x)]
    tiny = e.compare("olt", x, _k(e, smallest, x))
    normal = e.select(tiny, e.mul(x, _k(e, 2.0**places, x)), x)
    root = _bits(e, _k(e, 0.5**0.5, x))
    exponent = e.bitwise("ashr", e.sub(_bits(e, normal), root), _int(e, places, x))
    mantissa = e.sub(_bits(e, normal), e.bitwise("shl", exponent, _int(e, places, x)))
    f = e.sub(e.convert("bitcast", mantissa, x.type.scalar), _k(e, 1.0, x))
    k = e.convert("sitofp", exponent, x.type.scalar)
    k = e.select(tiny, e.sub(k, _k(e, places, x)), k)
    result = of_parts(e, f, k)
    result = e.select(e.compare("oeq", x, _k(e, float("inf"), x)), x, result)
    result = e.select(e.compare("oeq", x, _k(e, 0.0, x)), _k(e, float("-inf"), x), result)
    return e.select(e.compare("ult", x, _k(e, 0.0, x)), _k(e, float("nan"), x), result)


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


def sin(e: Emitter, x: Value) -> Value:
    """Sine; within 4 ulp for |x| up to 1e3 (float) or 1e5 (double), less exact beyond."""
    return _circular(e, x, 0)


def cos(e: Emitter, x: Value) -> Value:
    """Cosine; within 4 ulp of 1 for |x| up to 1e3 (float) or 1e5 (double), less exact beyond."""
    return _circular(e, x, 1)


def _circular(e: Emitter, x: Value, quarter: int) -> Value:
    """sin(x + quarter * pi/2)."""
    number, n = _whole(e, e.mul(x, _k(e, 0.6366197723675814, x)))
    r = x
    for part in HALF_PI[_double(x)]:
        r = e.fma(number, _k(e, -part, x), r)
    z = e.mul(r, r)
    sine = e.fma(e.mul(r, z), polynomial(e, SIN[_double(x)], z), r)
    cosine = e.fma(e.mul(z, z), polynomial(e, COS[_double(x)], z), e.fma(z, _k(e, -0.5, x), _k(e, 1.0, x)))
    n = e.add(n, _int(e, quarter, x))
    odd = e.compare("ne", e.bitwise("and", n, _int(e, 1, x)), _int(e, 0, x))
    negative = e.compare("ne", e.bitwise("and", n, _int(e, 2, x)), _int(e, 0, x))
    value = e.select(odd, cosine, sine)
    return e.select(negative, e.neg(value), value)


def power(e: Emitter, x: Value, y: Value) -> Value:
    """x^y as exp(y log|x|), with the sign and special values of `pow`. Float is computed in double.

    Double loses |y log x| ulp to the rounding of the exponent.
    """
    if not _double(x):
        wide = power(e, e.convert("fpext", x, "double"), e.convert("fpext", y, "double"))
        return e.convert("fptrunc", wide, "float")
    zero, one = _k(e, 0.0, x), _k(e, 1.0, x)
    whole = e.intrinsic("floor", x.type, y)
    half = e.mul(y, _k(e, 0.5, x))
    is_whole = e.compare("oeq", whole, y)
    is_odd = e.bitwise("and", is_whole, e.compare("une", e.intrinsic("floor", x.type, half), half))
    size = exp(e, e.mul(y, log(e, e.abs(x))))
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


ELEMENTARY = {
    "exp": exp,
    "expm1": expm1,
    "log": log,
    "log2": log2,
    "log1p": log1p,
    "sigmoid": sigmoid,
    "tanh": tanh,
    "softplus": softplus,
    "erf": erf,
    "sin": sin,
    "cos": cos,
    "pow": power,
}
"""Operation of the graph -> function(emitter, arguments)."""
