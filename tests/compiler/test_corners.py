"""Every operation at the corners of its range, in the compiled loop: value and slope are PyTorch's.

At zeros, kinks, ends of ranges, infinities, NaN, the largest and the smallest numbers: NaN where PyTorch has NaN, the
same infinity, else within 4 units in the last place (values) or 16 (slopes). In float32 PyTorch's result for float64,
rounded, will do as well: near the ends of the range its own float32 is not always near. Of complex numbers the unit is
that of the larger part, and one that is not finite is as good as another: which of its parts are NaN PyTorch's own
code for vectors and for single numbers does not agree upon.
"""

import math

import complex_corners
import corners
import pytest
import torch

from recurra import Lane, Recurrence
from recurra.compiler.frontend.table import LOWERING
from recurra.compiler.frontend.trace import trace

DTYPES = [torch.float32, torch.float64]
LIMITS = {"value": 4, "slope": 16}
WITHIN = {"value": 16, "slope": 64}
"""Where values are slopes."""


def smallest(dtype):
    """The smallest number above 0."""
    return torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps


def numbers(dtype, few=False):
    """Special ones, of both signs."""
    info = torch.finfo(dtype)
    sizes = [0.0, smallest(dtype), info.tiny, 0.5, 1.0, 3.0, 90.0, 1.5 * info.max**0.5, info.max, math.inf]
    if not few:
        sizes += [info.tiny**0.5 / 2, info.eps, 1e-3, 2.0, 6.0, 20.0, 21.0, 800.0, 1 / info.eps, 3e9]
    return torch.tensor([sign * size for size in sizes for sign in (1, -1)] + [math.nan], dtype=dtype)


def tame(dtype):
    """Special ones whose squares are in the range, too."""
    sizes = [0.0, 0.5, 1.0, 3.0, 90.0, math.inf]
    return torch.tensor([sign * size for size in sizes for sign in (1, -1)] + [math.nan], dtype=dtype)


def moderate(dtype):
    """Numbers that nothing is infinite of."""
    return torch.tensor([sign * size for size in (0.25, 0.5, 1.5, 3.0) for sign in (1, -1)] + [math.nan], dtype=dtype)


def on_vector(function):
    return lambda a, b: function(torch.stack([a, b]))


def on_complex(function, arity):
    return lambda *parts: function(*(torch.complex(parts[2 * i], parts[2 * i + 1]) for i in range(arity)))


TABLES = {
    "one": (corners.ONE, numbers, 1),
    "within": (corners.WITHIN, tame, 1),
    "two": (corners.TWO, lambda dtype: numbers(dtype, few=True), 2),
    "pair": ({n: on_vector(f) for n, f in corners.PAIR.items()}, lambda dtype: numbers(dtype, few=True), 2),
    "vector": ({n: on_vector(f) for n, f in corners.VECTOR.items()}, tame, 2),
    "view": ({n: on_vector(f) for n, f in corners.VIEW.items()}, tame, 2),
    "order": ({n: on_vector(f) for n, f in corners.ORDER.items()}, lambda dtype: numbers(dtype, few=True), 2),
    "summed": ({n: on_vector(f) for n, f in corners.SUMMED.items()}, tame, 2),
    "solved": ({n: on_vector(f) for n, f in corners.SOLVED.items()}, lambda dtype: moderate(dtype)[:-1], 2),
    "complex function": ({n: on_complex(f, 1) for n, f in complex_corners.COMPLEX_FUNCTIONS.items()}, moderate, 2),
    "complex": ({n: on_complex(f, 1) for n, f in complex_corners.COMPLEX.items()}, lambda d: numbers(d, few=True), 2),
    "complex two": ({n: on_complex(f, 2) for n, f in complex_corners.COMPLEX_TWO.items()}, tame, 4),
}
"""Name -> rows, the numbers they are evaluated at, and how many of them they take."""

SUMS = {
    "vector": set(corners.VECTOR),
    "solved": set(corners.SOLVED),
    "complex function": {"expm1", "sigmoid", "tan", "tanh", "z ** z"},
    "within": set(corners.WITHIN),
    "complex two": set(complex_corners.COMPLEX_TWO),
    "one": {"tanhshrink"},
}
"""Rows whose results are sums of terms that cancel: there a unit is never smaller than that of 1."""


def no_sigmoid(x, dtype):
    """Where e^-x is infinite in float32, the last of the numbers being x."""
    return (x[:, -1] < -88) & (dtype is torch.float32)


def minus_zero(x, _dtype):
    return (x[:, 0] == 0) & x[:, 0].signbit()


def everywhere(x, _dtype):
    return torch.ones(len(x), dtype=torch.bool)


NOT_HELD = {
    ("summed", "cumprod", "slope"): (
        lambda x, _: ~x.isfinite().all(-1) | (x == 0).any(-1),
        "PyTorch divides the product by each factor, and what is infinite, NaN or 0 then counts where it has no part",
    ),
    ("summed", "logcumsumexp", "slope"): (
        lambda x, _: (x == -math.inf).any(-1),
        "PyTorch's is NaN where a number counts for nothing",
    ),
    ("view", "select_scatter", "slope"): (
        lambda x, _: torch.ones(len(x), dtype=torch.bool),
        "under vmap PyTorch counts what is written over as well; by itself it does not",
    ),
    ("complex function", "sigmoid", "value"): (
        lambda x, _: (x[:, 0].abs() < 0.5) & (x[:, 1].abs() == 3),
        "near a pole both have as few digits as 1 + e^z has",
    ),
    ("one", "silu", "value"): (no_sigmoid, "a sigmoid whose e^-x is infinite is 0 in PyTorch; here it goes on to e^x"),
    ("two", "glu", "value"): (no_sigmoid, "as silu"),
    ("two", "glu", "slope"): (no_sigmoid, "as silu"),
    ("one", "logit", "slope"): (minus_zero, "infinite, with the sign PyTorch has for vectors, or for single numbers"),
    ("within", "logit_backward", "value"): (minus_zero, "as the slope of logit"),
    ("within", "logit_backward", "slope"): (everywhere, "PyTorch does not differentiate it again"),
    ("within", "silu_backward", "slope"): (everywhere, "PyTorch does not differentiate it again"),
    ("one", "acosh", "slope"): (lambda x, _: x[:, 0] == -1, "infinite where there is no value, of either sign"),
    ("pair", "norm, 0.5", "slope"): (
        lambda x, _: (x == 0).any(-1) & ~x.isfinite().all(-1),
        "what is infinite at zero is replaced by 0 before PyTorch multiplies it by infinity, and here after",
    ),
    ("complex", "sgn", "slope"): (
        lambda x, dtype: x.abs().amax(-1) > 1 / torch.finfo(dtype).tiny,
        "the slope, 1 over the size, is less than the smallest normal number, and PyTorch's is 0",
    ),
}
"""(table, row, "value" or "slope") -> where the two may differ, given the numbers and the dtype; and why."""


class Corners(Recurrence):
    """All rows of a table, each on numbers of its own, so that no gradient meets another; a lane per set of numbers."""

    lane = Lane.CHANNEL

    def __init__(self, functions, arity, lanes):
        super().__init__(lanes * len(functions) * arity)
        self.functions, self.arity, self.lanes = functions, arity, lanes
        self.complex = arity and any(torch.is_complex(f(*torch.ones(arity))) for f in functions)

    def start(self):
        return {"h": torch.zeros(self.lanes)}

    def inputs(self, x):
        return {"x": x.unflatten(-1, (self.lanes, len(self.functions), self.arity))}

    def step(self, h, x):
        results = [function(*row.unbind()) for function, row in zip(self.functions, x.unbind(), strict=True)]
        if self.complex:
            results = [torch.view_as_real(r) if r.is_complex() else torch.stack([r, 0 * h]) for r in results]
        return h, torch.stack([r.to(x.dtype) for r in results])


def evaluate(functions, points, engine):
    """Values [rows, points, parts] and slopes [rows, points, arity]. The parts of complex results weigh differently."""
    count, arity = points.shape
    layer = Corners(functions, arity, count).to(points.dtype)
    x = points[:, None].expand(-1, len(functions), -1).reshape(1, 1, -1).clone().requires_grad_()
    y, _ = layer(x, engine=engine)
    y = y.view(count, len(functions), -1)
    weights = torch.tensor([1.0, 0.7], dtype=y.dtype)[: y.shape[-1]]
    (slopes,) = torch.autograd.grad(y, x, weights.expand_as(y))
    return y.detach().transpose(0, 1), slopes.view(count, len(functions), -1).transpose(0, 1)


def units(got, expected, whole, least):
    """How far apart numbers are, in units in the last place, the largest over their parts [..., parts].

    Args:
        whole: one unit for all parts, and not finite is not finite.
        least: of a number so large the unit is the smallest.
    """
    info = torch.finfo(got.dtype)
    finite, wanted = got.isfinite(), expected.isfinite()
    same = (got == expected) | (got.isnan() & expected.isnan())
    size = expected.abs().nan_to_num(0, 0, 0).clamp(least, info.max / 2)
    if whole:
        finite, wanted = (t.all(-1, keepdim=True).expand_as(t) for t in (finite, wanted))
        same = same | (~finite & ~wanted)
        size = size.amax(-1, keepdim=True).expand_as(size)
    unit = (torch.nextafter(size, torch.full_like(size, math.inf)) - size).double()
    apart = (got.double() - expected.double()).abs() / unit
    apart = torch.where(finite & wanted, apart, math.inf)
    return torch.where(same, 0.0, apart).amax(-1)


def misses(table, dtype, engine="compiled", held=("value", "slope")):
    """What is not as PyTorch has it: one line each."""
    rows, special, arity = TABLES[table]
    points = torch.cartesian_prod(*[special(dtype)] * arity).view(-1, arity)
    functions, found = list(rows.values()), []
    whole = table.startswith("complex")
    got, expected = (evaluate(functions, points, engine) for engine in (engine, "loop"))
    exact = [t.float() for t in evaluate(functions, points.double(), "loop")] if dtype is torch.float32 else expected
    limits = WITHIN if table == "within" else LIMITS
    for what, ours, theirs, wide in zip(limits, got, expected, exact, strict=True):
        for name, a, b, c in zip(rows, ours, theirs, wide, strict=True) if what in held else ():
            least = 1.0 if name in SUMS.get(table, ()) else 0.0
            far = units(a, b, whole, least) > limits[what]
            alike = (b.isnan() == c.isnan()).all(-1)
            far &= ~alike | (units(a, c, whole, least) > limits[what])
            allowed, _ = NOT_HELD.get((table, name, what), (None, None))
            if allowed is not None:
                far &= ~allowed(points, dtype)
            for i in far.nonzero()[:3, 0]:
                x, mine, yours = (t[i].tolist() for t in (points, a, b))
                found.append(f"{name}, {what} at {x}: {mine}, and PyTorch has {yours} ({int(far.sum())} such)")
    return found


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # vmap maps a conjugate number by number
@pytest.mark.filterwarnings("ignore:torch.searchsorted")  # under vmap its arguments lie otherwise
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("table", TABLES)
def test_corners(table, dtype):
    found = misses(table, dtype)
    assert not found, "\n".join(found)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("table", [table for table in TABLES if table != "complex two"])
def test_slopes_in_parallel_over_time(table):
    """Other engines evaluate the same graph in PyTorch's operations, whose slopes its marks have to change as well."""
    found = misses(table, torch.float64, "newton", ["slope"])
    assert not found, "\n".join(found)


@pytest.mark.filterwarnings("ignore:torch.searchsorted")  # PyTorch's word on rows that are columns of a matrix
def test_every_rule_has_a_row(monkeypatch):
    used = set()

    def noted(name, rule):
        return lambda *args, **kwargs: used.add(name) or rule(*args, **kwargs)

    for name, rule in LOWERING.items():
        monkeypatch.setitem(LOWERING, name, noted(name, rule))
    for rows, _, arity in TABLES.values():
        layer = Corners(list(rows.values()), arity, 1)
        state, x = {"h": torch.tensor(0.0)}, torch.full((len(rows), arity), 0.5)
        trace(lambda states, inputs, _, layer=layer: _as_tuple(layer.step(*states, **inputs)), state, {"x": x}, {})
    assert sorted(set(LOWERING) - used) == [], "add rows to tests/compiler/corners.py"


def _as_tuple(result):
    state, y = result
    return (state,), y
