"""Every elementary function against exact values over its whole range."""

import ctypes

import mpmath
import numpy as np
import pytest

from recurra.compiler.codegen.emitter import I64, PTR, Emitter, Type, Value
from recurra.compiler.codegen.writer import FUNCTIONS, INSTRUCTIONS
from recurra.compiler.targets import host

EXACT = {
    "exp": mpmath.exp,
    "exp2": lambda x: mpmath.mpf(2) ** x,
    "expm1": mpmath.expm1,
    "log": mpmath.log,
    "log1p": mpmath.log1p,
    "sigmoid": lambda x: 1 / (1 + mpmath.exp(-x)),
    "tanh": mpmath.tanh,
    "softplus": lambda x: mpmath.log1p(mpmath.exp(x)),
    "erf": mpmath.erf,
    "erfc": lambda x: mpmath.erfc(x) if abs(x) < 100 else mpmath.mpf(0 if x > 0 else 2),
    "log2": lambda x: mpmath.log(x, 2),
    "tan": mpmath.tan,
    "asin": mpmath.asin,
    "acos": mpmath.acos,
    "atan": mpmath.atan,
    "sinh": mpmath.sinh,
    "cosh": mpmath.cosh,
    "asinh": mpmath.asinh,
    "acosh": mpmath.acosh,
    "atanh": mpmath.atanh,
}
DOMAIN = {
    "log": lambda x: x >= 0,
    "log2": lambda x: x > 0,
    "log1p": lambda x: x > -1,
    "tan": lambda x: np.abs(x) < 1e3,
    "asin": lambda x: np.abs(x) <= 1,
    "acos": lambda x: np.abs(x) <= 1,
    "acosh": lambda x: x >= 1,
    "atanh": lambda x: np.abs(x) < 1,
}
"""Where a function is measured, if not everywhere."""
ULPS = 4
NUMPY = {"float": np.float32, "double": np.float64}


def compiled(name, scalar, width, arity=1):
    """The function as a loop over arrays whose length is a multiple of `width`."""
    e = Emitter()
    type = Type(scalar, width)
    with e.loop(0, Value("%n", I64), width) as i:
        args = [e.load(e.offset(Value(f"%x{k}", PTR), i, scalar), type) for k in range(arity)]
        e.store((FUNCTIONS | INSTRUCTIONS)[name](e, *args), e.offset(Value("%y", PTR), i, scalar))
    ir = e.function("run", [("y", PTR), *((f"x{k}", PTR) for k in range(arity)), ("n", I64)])
    address = host.load_functions(host.compile_object(ir), "run")[0]
    run = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * (arity + 1), ctypes.c_int64)(address)

    def call(*xs):
        xs = [np.ascontiguousarray(np.resize(x, -(-len(x) // width) * width)) for x in xs]
        y = np.full_like(xs[0], np.nan)
        run(y.ctypes.data, *(x.ctypes.data for x in xs), len(y))
        return y

    return lambda *xs: call(*xs)[: len(xs[0])]


def native(scalar):
    return host.vector_bytes() // NUMPY[scalar]().itemsize


def samples(name, dtype, count):
    """Random numbers over the whole range, log-spaced and uniform, and the special ones."""
    info, rng = np.finfo(dtype), np.random.default_rng()
    spread = 10.0 ** rng.uniform(np.log10(float(info.smallest_subnormal)), np.log10(float(info.max)) - 0.01, count)
    limits = np.array([87.3, 88.7, 88.8, 103.9, 104.1, 708.3, 709.7, 709.8, 745.1, 745.2, 0.3465, 0.3467, 1, 0.5, 20])
    # Beyond these the result is 0, 1, x or inf; most samples go where something happens.
    busy = rng.uniform(0, 110 if dtype is np.float32 else 760, count)
    near = rng.uniform(0, 6.5, count)
    around_one = 1 + rng.normal(size=count) * 10.0 ** rng.uniform(-12, -0.5, count)
    x = np.concatenate(
        [spread, busy, near, around_one, limits, limits * (1 + float(info.eps)), [0.0, float(info.tiny)]]
    )
    x = np.concatenate([x, rng.uniform(0, 1, count), 1 - 10.0 ** rng.uniform(-12, 0, count)]).astype(dtype)
    x = np.concatenate([x, -x])
    return x[DOMAIN[name](x)] if name in DOMAIN else x


def ulps(got, x, name):
    """Errors in units of the last place of the exact result."""
    info = np.finfo(got.dtype)
    errors = []
    mpmath.mp.prec = 200
    for value, argument in zip(got, x, strict=True):
        if argument == 0 and name == "log":
            assert value == -np.inf
            continue
        exact = EXACT[name](mpmath.mpf(float(argument)))
        if abs(exact) > float(info.max):
            assert value in (np.inf, -np.inf) or abs(abs(float(value)) - float(info.max)) <= 8 * float(
                np.spacing(info.max)
            )
            continue
        unit = float(np.spacing(np.abs(got.dtype.type(float(exact)))))
        errors.append(float(abs(mpmath.mpf(float(value)) - exact)) / unit)
    return np.array(errors)


@pytest.mark.parametrize("scalar", ["float", "double"])
@pytest.mark.parametrize("name", EXACT)
def test_within_four_ulp(name, scalar):
    dtype = NUMPY[scalar]
    x = samples(name, dtype, 400)
    for width in (1, native(scalar)):
        got = compiled(name, scalar, width)(x)
        assert not np.isnan(got).any()
        errors = ulps(got, x, name)
        assert errors.max() <= ULPS, (x[errors.argmax()], errors.max())


def angles(dtype, rng, count):
    """Of all sizes, and next to multiples of a quarter turn, where the result is small."""
    info = np.finfo(dtype)
    spread = 10.0 ** rng.uniform(np.log10(float(info.smallest_subnormal)), np.log10(float(info.max)) - 0.01, count)
    turns = np.round(10.0 ** rng.uniform(0, 12, count)) * (np.pi / 2)
    x = np.concatenate([spread, turns, rng.uniform(0, 1e3, count), [float(info.max), 5e4, 1e8, 2.0**60]]).astype(dtype)
    return np.concatenate([x, -x])


@pytest.mark.parametrize("scalar", ["float", "double"])
@pytest.mark.parametrize("name", ["sin", "cos"])
def test_circular(name, scalar):
    dtype = NUMPY[scalar]
    x = angles(dtype, np.random.default_rng(), 300)
    mpmath.mp.prec = 1400
    exact = [getattr(mpmath, name)(mpmath.mpf(float(v))) for v in x]
    for width in (1, native(scalar)):
        got = compiled(name, scalar, width)(x)
        assert (np.abs(got) <= 1).all()
        for value, argument, wanted in zip(got, x, exact, strict=True):
            unit = float(np.spacing(np.abs(dtype(float(wanted)))))
            assert abs(mpmath.mpf(float(value)) - wanted) <= ULPS * unit, argument


QUADRANTS = [(y * a, x * b) for y, x in ((1, 1), (1, -1), (-1, 1), (-1, -1)) for a, b in ((0.0, 1), (0, 0), (np.inf, 1),
             (np.inf, np.inf), (1, np.inf), (1, 0), (1e-30, 1e30), (1, 1))]  # fmt: skip


@pytest.mark.parametrize("scalar", ["float", "double"])
def test_directions(scalar):
    """The angle of (x, y) holds for all signs and sizes."""
    dtype = NUMPY[scalar]
    y, x = 10.0 ** np.random.default_rng().uniform(-9, 9, (2, 400)) * np.random.default_rng().choice([-1, 1], (2, 400))
    y, x = np.concatenate([np.array(QUADRANTS).T, [y, x]], 1).astype(dtype)
    got, exact = compiled("atan2", scalar, native(scalar), 2)(y, x), np.arctan2(y.astype(np.longdouble), x)
    assert (np.abs(got - exact) <= ULPS * np.spacing(np.abs(exact).astype(dtype))).all()
    np.testing.assert_array_equal(np.signbit(got), np.signbit(exact))


@pytest.mark.parametrize("scalar", ["float", "double"])
def test_what_division_leaves(scalar):
    """It is exact, zeros with their signs included, for all sizes: around whole quotients, and where these are so large
    that they are not exact."""
    rng, dtype = np.random.default_rng(), NUMPY[scalar]
    a, b = (10.0 ** rng.uniform(-9, 9, (2, 400)) * rng.choice([-1, 1], (2, 400))).astype(dtype)
    n = np.round(2.0 ** rng.uniform(0, 55, 400)).astype(dtype)  # Quotients.
    times = np.concatenate([n, n + dtype(0.5)]) * np.concatenate([b, b])
    many = [times, np.nextafter(times, dtype(0)), np.nextafter(times, dtype(np.inf))]
    info = np.finfo(dtype)
    ends = [0.0, 1.0, 3.0, info.max, info.smallest_subnormal, info.smallest_normal, np.inf, np.nan]
    corners = np.array([(s * u, v) for u in ends for v in ends for s in (1, -1)], dtype).T
    a, b = np.concatenate([a, *many, corners[0]]), np.concatenate([b, *[b] * 6, corners[1]])
    with np.errstate(all="ignore"):
        exact = np.fmod(a, b)
    for width in (1, native(scalar)):
        # A vector that holds a large quotient goes another way than its neighbours would: hence small ones alone too.
        for chosen in (slice(None), np.abs(a) * 2.0**-20 < np.abs(b)):
            got = compiled("fmod", scalar, width, 2)(a[chosen], b[chosen])
            np.testing.assert_array_equal(got, exact[chosen])
            known = ~np.isnan(got)
            np.testing.assert_array_equal(np.signbit(got[known]), np.signbit(exact[chosen][known]))


def far_apart(got, exact):
    """The largest error in units of the last place of the exact results."""
    mpmath.mp.prec = 200
    unit = [float(np.spacing(np.abs(got.dtype.type(float(e))))) for e in exact]
    return max(float(abs(mpmath.mpf(float(g)) - e)) / u for g, e, u in zip(got, exact, unit, strict=True))


@pytest.mark.parametrize("scalar", ["float", "double"])
def test_power(scalar):
    """Over the whole range of results: the closer to its ends, the more digits the logarithm has to have."""
    rng, dtype = np.random.default_rng(), NUMPY[scalar]
    ends = (-85, 85) if scalar == "float" else (-700, 700)
    x = np.concatenate([10.0 ** rng.uniform(-30, 30, 1000), 1 + rng.normal(size=1000) * 0.3]).astype(dtype)
    x = np.abs(x)
    y = (rng.uniform(*ends, len(x)) / np.log(x.astype(np.float64))).astype(dtype)
    mpmath.mp.prec = 200
    exact = [mpmath.mpf(float(a)) ** mpmath.mpf(float(b)) for a, b in zip(x, y, strict=True)]
    for width in (1, native(scalar)):
        assert far_apart(compiled("pow", scalar, width, 2)(x, y), exact) <= ULPS


@pytest.mark.parametrize("scalar", ["float", "double"])
def test_hypot(scalar):
    rng, dtype = np.random.default_rng(), NUMPY[scalar]
    info = np.finfo(dtype)
    size = 10.0 ** rng.uniform(np.log10(float(info.smallest_subnormal)), np.log10(float(info.max)) - 1, 1000)
    x, y = (size * rng.normal(size=1000)).astype(dtype), (size * rng.normal(size=1000)).astype(dtype)
    exact = [mpmath.hypot(mpmath.mpf(float(a)), mpmath.mpf(float(b))) for a, b in zip(x, y, strict=True)]
    for width in (1, native(scalar)):
        assert far_apart(compiled("hypot", scalar, width, 2)(x, y), exact) <= ULPS
    special = np.array([0, np.inf, np.nan, 1, info.max], dtype)
    x, y = (a.ravel() for a in np.meshgrid(special, special))
    with np.errstate(all="ignore"):
        np.testing.assert_allclose(compiled("hypot", scalar, 1, 2)(x, y), np.hypot(x, y), rtol=4 * info.eps)


@pytest.mark.parametrize("scalar", ["float", "double"])
def test_power_of_special_numbers(scalar):
    special = np.array([0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 2.0, -2.0, 3.0, -3.0, np.inf, -np.inf, np.nan], NUMPY[scalar])
    x, y = (a.ravel() for a in np.meshgrid(special, special))
    with np.errstate(all="ignore"):
        expected = np.power(x, y)
    got = compiled("pow", scalar, 1, 2)(x, y)
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    zero = expected == 0
    np.testing.assert_array_equal(np.signbit(got[zero]), np.signbit(expected[zero]))


SPECIAL = {
    "exp": [np.inf, 0.0, 1.0],
    "exp2": [np.inf, 0.0, 1.0],
    "expm1": [np.inf, -1.0, 0.0],
    "log": [np.inf, np.nan, -np.inf],
    "log1p": [np.inf, np.nan, 0.0],
    "sigmoid": [1.0, 0.0, 0.5],
    "tanh": [1.0, -1.0, 0.0],
    "softplus": [np.inf, 0.0, np.log(2)],
    "erf": [1.0, -1.0, 0.0],
    "erfc": [0.0, 2.0, 1.0],
    "log2": [np.inf, np.nan, -np.inf],
    "tan": [np.nan, np.nan, 0.0],
    "asin": [np.nan, np.nan, 0.0],
    "acos": [np.nan, np.nan, np.pi / 2],
    "atan": [np.pi / 2, -np.pi / 2, 0.0],
    "sinh": [np.inf, -np.inf, 0.0],
    "cosh": [np.inf, np.inf, 1.0],
    "asinh": [np.inf, -np.inf, 0.0],
    "acosh": [np.inf, np.nan, np.nan],
    "atanh": [np.nan, np.nan, 0.0],
}


@pytest.mark.parametrize("scalar", ["float", "double"])
@pytest.mark.parametrize("name", SPECIAL)
def test_special_numbers(name, scalar):
    dtype = NUMPY[scalar]
    for width in (1, native(scalar)):
        got = compiled(name, scalar, width)(np.array([np.inf, -np.inf, 0.0, np.nan], dtype))
        np.testing.assert_allclose(got[:3], np.array(SPECIAL[name], dtype), rtol=np.finfo(dtype).eps)
        assert np.isnan(got[3])


def test_log1p_below_its_range():
    got = compiled("log1p", "float", 1)(np.array([-1.0, -1.5], np.float32))
    assert got[0] == -np.inf
    assert np.isnan(got[1])


@pytest.mark.slow
@pytest.mark.parametrize(("name", "exact"), [("exp", np.exp), ("tanh", np.tanh), ("log", np.log)])
def test_every_float(name, exact):
    function = compiled(name, "float", native("float"))
    for start in range(0, 2**32, 2**24):
        x = np.arange(start, start + 2**24, dtype=np.uint32).view(np.float32)
        with np.errstate(all="ignore"):
            y, expected = function(x), exact(x.astype(np.float64))
            rounded = expected.astype(np.float32)
            finite = np.isfinite(rounded) & np.isfinite(y)
            assert (np.isfinite(rounded) == np.isfinite(y)).all()
            error = np.abs(y[finite] - expected[finite]) / np.spacing(np.abs(rounded[finite]))
        assert error.max(initial=0) <= ULPS
