"""Sine and cosine of any angle, on vectors of any width, float or double.

An angle is taken to within an eighth of a turn of zero, where polynomials serve. Up to `NEAR` a multiple of a quarter
turn is subtracted in three parts, which with fused products loses nothing. Beyond, where a vector holds such an angle
at all, each of its numbers is multiplied by as many bits of 2/pi as it takes (Payne and Hanek, 1983): a call per
number, and for all other vectors one comparison and a branch that is not taken.
"""

from __future__ import annotations

from recurra.compiler.codegen.coefficients import COS, SIN
from recurra.compiler.codegen.elementary import _double, _int, _k, _whole, polynomial
from recurra.compiler.codegen.emitter import I64, PTR, Emitter, Type, Value, float_literal

HALF_PI = (
    (1.5707963705062866, -4.371138828673793e-08, -1.7151245100058819e-15),
    (1.5707963267948966, 6.123233995736766e-17, -1.4973849048591698e-33),
)
"""A quarter turn in three parts, each with all the bits of its type."""
NEAR = (5e4, 1e8)
WORDS = 20
"""Words of 64 bits that 2/pi is held in, the first one empty: enough for the largest double."""


def sin(e: Emitter, x: Value) -> Value:
    """Sine, NaN at infinity."""
    return _circular(e, x, 0)


def cos(e: Emitter, x: Value) -> Value:
    """Cosine, NaN at infinity."""
    return _circular(e, x, 1)


def _circular(e: Emitter, x: Value, quarter: int) -> Value:
    """sin(x + quarter * pi/2)."""
    count, n = _whole(e, e.mul(x, _k(e, 0.6366197723675814, x)))
    r = x
    for part in HALF_PI[_double(x)]:
        r = e.fma(count, _k(e, -part, x), r)
    r, n = _far_as_well(e, x, r, n)
    z = e.mul(r, r)
    sine = e.fma(e.mul(r, z), polynomial(e, SIN[_double(x)], z), r)
    half = e.fma(z, _k(e, -0.5, x), _k(e, 1.0, x))
    cosine = e.fma(e.mul(z, z), polynomial(e, COS[_double(x)], z), half)
    n = e.add(n, _int(e, quarter, x))
    odd = e.compare("ne", e.bitwise("and", n, _int(e, 1, x)), _int(e, 0, x))
    negative = e.compare("ne", e.bitwise("and", n, _int(e, 2, x)), _int(e, 0, x))
    value = e.select(odd, cosine, sine)
    return e.select(negative, e.neg(value), value)


def _far_as_well(e: Emitter, x: Value, r: Value, n: Value) -> tuple[Value, Value]:
    """The rest and the quarter turns of the angles x, given those that hold up to `NEAR`."""
    beyond = e.compare("ogt", e.abs(x), _k(e, NEAR[_double(x)], x))
    rest, quarters = e.variable(r), e.variable(n)
    with e.when(e.any(beyond)):
        # Of infinity what is left by the short way is NaN.
        far = e.bitwise("and", beyond, e.compare("one", e.abs(x), _k(e, float("inf"), x)))
        # Numbers one by one, through memory: rare, and so it takes little code.
        angles = e.variable(e.select(far, x, _k(e, 1.0, x)))
        counts = e.variable(n)
        with e.loop(0, x.type.width) as i:
            angle, turn = (e.offset(Value(cell.address, PTR), i, cell.type.scalar) for cell in (angles, counts))
            wide = e.convert("fpext", e.load(angle, Type(x.type.scalar)), "double")
            e.declarations.add(_far_source())
            both = e.instruction(Type("{ double, i64 }"), f"call {{ double, i64 }} @far_angle({wide})")
            left = e.instruction(Type("double"), f"extractvalue {both}, 0")
            count = e.instruction(I64, f"extractvalue {both}, 1")
            e.store(e.convert("fptrunc", left, x.type.scalar), angle)
            e.store(e.convert("trunc", count, n.type.scalar), turn)
        e.set(rest, e.select(far, e.get(angles), r))
        e.set(quarters, e.select(far, e.get(counts), n))
    return e.get(rest), e.get(quarters)


def _two_over_pi() -> list[int]:
    """2/pi in words, the highest first, after an empty one; pi from Machin's formula."""
    bits = 64 * (WORDS + 1)

    def inverse_tangent(n: int) -> int:
        total, power, k = 0, (1 << bits) // n, 1
        while power:
            total += (power // k) * (1 if k % 4 == 1 else -1)
            power, k = power // (n * n), k + 2
        return total

    pi = 4 * (4 * inverse_tangent(5) - inverse_tangent(239))
    value = (2 << (bits + 64 * (WORDS - 1))) // pi
    return [(value >> (64 * (WORDS - 1 - i))) & (2**64 - 1) for i in range(WORDS)]


# The integer m of 53 bits with its hidden one, and at which bit of the table to begin.
_TAKEN_APART = """  %bits = bitcast double %x to i64
  %below = icmp slt i64 %bits, 0
  %high = lshr i64 %bits, 52
  %biased = and i64 %high, 2047
  %low = and i64 %bits, 4503599627370495
  %m = or i64 %low, 4503599627370496
  ; e = biased - 1075; the first bit that counts is number e - 2 of 2/pi, and 64 empty ones come before them.
  %first = sub i64 %biased, 1013
"""
# 192 bits from there on: four words, each pair of neighbours shifted as one (`fshl`) into c0, c1, c2.
_BITS_OF_TWO_OVER_PI = """  %word = lshr i64 %first, 6
  %shift = and i64 %first, 63
  %p0 = getelementptr i64, ptr @two_over_pi, i64 %word
  %p1 = getelementptr i64, ptr %p0, i64 1
  %p2 = getelementptr i64, ptr %p0, i64 2
  %p3 = getelementptr i64, ptr %p0, i64 3
  %w0 = load i64, ptr %p0
  %w1 = load i64, ptr %p1
  %w2 = load i64, ptr %p2
  %w3 = load i64, ptr %p3
  %c0 = call i64 @llvm.fshl.i64(i64 %w0, i64 %w1, i64 %shift)
  %c1 = call i64 @llvm.fshl.i64(i64 %w1, i64 %w2, i64 %shift)
  %c2 = call i64 @llvm.fshl.i64(i64 %w2, i64 %w3, i64 %shift)
"""
# m times (c0, c1, c2), of which the lowest word is dropped but for its carry, and whatever is above 128 bits is whole
# turns: top * 2^64 keeps just the low half of m * c0.
_PRODUCT = """  %wide = zext i64 %m to i128
  %d1 = zext i64 %c1 to i128
  %d2 = zext i64 %c2 to i128
  %a2 = mul i128 %wide, %d2
  %carry = lshr i128 %a2, 64
  %b1 = mul i128 %wide, %d1
  %a1 = add i128 %b1, %carry
  %top = mul i64 %m, %c0
  %topwide = zext i64 %top to i128
  %topmost = shl i128 %topwide, 64
  %turns = add i128 %topmost, %a1
"""
# The highest two bits count quarter turns; what follows, read as signed, lies within half a quarter of the nearest one.
# `over`: it is negative, so the nearest quarter is the next one.
_NEAREST_QUARTER = """  %two = lshr i128 %turns, 126
  %quarters = trunc i128 %two to i64
  %fraction = shl i128 %turns, 2
  %over = icmp slt i128 %fraction, 0
  %one = zext i1 %over to i64
  %nearest = add i64 %quarters, %one
  %opposite = sub i128 0, %fraction
  %size = select i1 %over, i128 %opposite, i128 %fraction
"""
# The fraction's highest 64 bits as a double, times a quarter turn, times 2^-zeros, whose exponent's bits are put
# together by hand. Leading zeros would cost digits: hence the shift first.
_AS_DOUBLE = f"""  %zeros = call i128 @llvm.ctlz.i128(i128 %size, i1 false)
  %moved = shl i128 %size, %zeros
  %kept = lshr i128 %moved, 64
  %digits = trunc i128 %kept to i64
  %scaled = uitofp i64 %digits to double
  %angle = fmul double %scaled, {float_literal(HALF_PI[1][0] * 2.0**-64, "double")}
  %less = trunc i128 %zeros to i64
  %exponent = sub i64 1023, %less
  %exponentbits = shl i64 %exponent, 52
  %power = bitcast i64 %exponentbits to double
  %rest = fmul double %angle, %power
"""
# The sine is odd: of a negative angle both the rest and the quarter turns change their signs.
_SIGNED = """  %other = fneg double %rest
  %flip = xor i1 %over, %below
  %signed = select i1 %flip, double %other, double %rest
  %back = sub i64 0, %nearest
  %count = select i1 %below, i64 %back, i64 %nearest
  %half = insertvalue { double, i64 } poison, double %signed, 0
  %both = insertvalue { double, i64 } %half, i64 %count, 1
  ret { double, i64 } %both
}"""


def _far_source() -> str:
    """The function that takes a finite angle of at least 1 to (what is left, quarter turns).

    The angle is m 2^e with an integer m of 53 bits. Bits of 2/pi that are worth 4 and more together with 2^e give whole
    turns: they are skipped. Of m times the next 192 bits the highest two are the quarter turns and what follows is the
    fraction of one. Read as signed it is the distance to the nearest quarter, of which 64 bits are kept.
    """
    table = ", ".join(f"i64 {word - 2**64 if word >> 63 else word}" for word in _two_over_pi())
    head = f"""declare i64 @llvm.fshl.i64(i64, i64, i64)
declare i128 @llvm.ctlz.i128(i128, i1)
@two_over_pi = private constant [{WORDS} x i64] [{table}]
define internal {{ double, i64 }} @far_angle(double %x) noinline {{
"""
    return head + _TAKEN_APART + _BITS_OF_TWO_OVER_PI + _PRODUCT + _NEAREST_QUARTER + _AS_DOUBLE + _SIGNED


CIRCULAR = {"sin": sin, "cos": cos}
"""Operation of the graph -> function(emitter, arguments)."""
