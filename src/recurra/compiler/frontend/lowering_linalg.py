"""Linear algebra of small matrices in terms of the graph's operations; see `lowering`.

Every method goes through the matrix column by column, with what it does to the others written as operations on whole
matrices. Where PyTorch raises an error because a matrix is singular, or is not positive, the result is infinite or NaN.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from recurra.compiler.frontend import lowering_complex  # noqa: F401  (rules that are used here)
from recurra.compiler.frontend.graph import Graph, Node
from recurra.compiler.frontend.lowering import LOWERING, add, conj, each, mul, real, rule
from recurra.compiler.frontend.lowering_index import iota, take
from recurra.compiler.frontend.lowering_order import _first, _is_nan
from recurra.compiler.frontend.lowering_shapes import reduced
from recurra.compiler.frontend.values import Pair, Value

TERMS = 20
"""Of the series of exp, for a matrix of norm 1 at most: enough for double."""
SQUARINGS = 12
"""How often a matrix may be halved before its exponential is taken: for norms up to 4096."""


# --- parts of matrices ------------------------------------------------------------------------------------------------
def _rows(g: Graph, x: Value, which: Iterable[int]) -> Value:
    return each(x, lambda node: take(g, node, len(node.shape) - 2, which))


def _columns(g: Graph, x: Value, which: Iterable[int]) -> Value:
    return each(x, lambda node: take(g, node, len(node.shape) - 1, which))


def _turned(g: Graph, x: Value) -> Value:
    """The transpose."""
    return LOWERING["transpose"](g, x, -2, -1)


def _identity(g: Graph, n: int) -> Node:
    places = iota(g, n)
    return real(g, g.pointwise("eq", g.reshape(places, (n, 1)), g.reshape(places, (1, n))))


def _product(g: Graph, a: Value, b: Value) -> Value:
    """[..., m, k] by [..., k, n]."""
    if len(a.shape) == len(b.shape) == 2:
        return LOWERING["mm"](g, a, b)
    wide = mul(g, LOWERING["unsqueeze"](g, a, -1), LOWERING["unsqueeze"](g, b, -3))
    return LOWERING["sum"](g, wide, [-2])


def _less(g: Graph, a: Value, b: Value) -> Value:
    return add(g, a, b, op="sub")


# --- elimination ------------------------------------------------------------------------------------------------------
class _Eliminated:
    """A matrix taken to the identity by its rows, with others beside it: the method of Gauss and Jordan.

    Rows stay where they are: the row in which the largest element of a column was found counts as that column's.
    """

    def __init__(self, g: Graph, matrix: Value, beside: Value | None):
        n = matrix.shape[-1]
        self.g, self.n, self.pivots, self.hits = g, n, [], []
        self.left: Value | None = matrix if beside is None else LOWERING["cat"](g, [matrix, beside], -1)
        self.turns: Node = g.constant(0.0)
        used = g.expand(g.pointwise("lt", g.constant(1.0), g.constant(0.0)), (*matrix.shape[:-1], 1))
        for _ in range(n):
            used = self._column(used)

    def _column(self, used: Node) -> Node:
        """Make the first column of what is left one of the identity's, and leave it out."""
        g, left = self.g, self.left
        assert left is not None
        column = _columns(g, left, [0])
        size = LOWERING["abs"](g, column)
        free = g.pointwise("where", used, g.constant(-1.0), size)
        flat = g.reshape(free, free.shape[:-1])
        largest = g.pointwise("eq", flat, reduced(g, "max", flat, -1, True))
        place = _first(g, g.pointwise("or", largest, _is_nan(g, flat)))
        place = g.reshape(place, (*place.shape, 1))
        places = g.reshape(iota(g, self.n), (self.n, 1))
        hit = g.pointwise("eq", places, place)
        passed = g.pointwise("and", g.pointwise("not", used), g.pointwise("lt", places, place))
        self.turns = g.pointwise("add", self.turns, reduced(g, "sum", real(g, passed), [-2, -1], False))
        pivot = self._at(hit, column)
        self.pivots.append(pivot)
        self.hits.append(hit)
        rest = left.shape[-1] - 1
        self.left = None
        if rest:
            others = _columns(g, left, range(1, rest + 1))
            row = LOWERING["div"](g, self._at(hit, others), pivot)
            self.left = LOWERING["where"](g, hit, row, _less(g, others, mul(g, column, row)))
        return g.pointwise("or", used, hit)

    def _at(self, hit: Node, x: Value) -> Value:
        """The row that is hit, [..., 1, :]."""
        return LOWERING["sum"](self.g, LOWERING["where"](self.g, hit, x, 0.0), [-2], True)

    def solution(self) -> Value:
        """What the others have become, rows in their order."""
        assert self.left is not None
        return LOWERING["cat"](self.g, [self._at(hit, self.left) for hit in self.hits], -2)

    @property
    def sign(self) -> Node:
        """Of the permutation of rows."""
        half = self.g.pointwise("floor", LOWERING["mul"](self.g, self.turns, 0.5))
        odd = self.g.pointwise("sub", self.turns, LOWERING["mul"](self.g, half, 2.0))
        return self.g.pointwise("sub", self.g.constant(1.0), LOWERING["mul"](self.g, odd, 2.0))


def _flat(g: Graph, x: Value) -> Value:
    """Without the last two axes, of length 1."""
    return each(x, lambda node: g.reshape(node, node.shape[:-2]))


rule("_linalg_check_errors")(lambda *_, **__: [])
"""Whether an inverse exists is not asked: see above."""


@rule("linalg_inv_ex")
def _inv(g: Graph, a: Value, check_errors: bool = False) -> list[Any]:  # noqa: ARG001
    n = a.shape[-1]
    eye = g.expand(_identity(g, n), (*a.shape[:-2], n, n))
    return [_Eliminated(g, a, eye).solution(), None]


@rule("_linalg_solve_ex")
def _solve(g: Graph, a: Value, b: Value, left: bool = True, check_errors: bool = False) -> list[Any]:  # noqa: ARG001
    vector = len(b.shape) == 1 or (len(b.shape) == len(a.shape) - 1 and b.shape == a.shape[:-1])
    b = LOWERING["unsqueeze"](g, b, -1) if vector else b
    if not left:
        a, b = _turned(g, a), _turned(g, b)
    batch = max((a.shape[:-2], b.shape[:-2]), key=len)
    a, b = (each(x, lambda node: g.expand(node, (*batch, *node.shape[-2:]))) for x in (a, b))
    x = _Eliminated(g, a, b).solution()
    x = x if left else _turned(g, x)
    return [LOWERING["squeeze"](g, x, -1) if vector else x, None, None, None]


@rule("_linalg_det")
def _det(g: Graph, a: Value) -> list[Any]:
    done = _Eliminated(g, a, None)
    total: Value = done.sign
    for pivot in done.pivots:
        total = mul(g, total, _flat(g, pivot))
    return [total, None, None]


@rule("_linalg_slogdet")
def _slogdet(g: Graph, a: Value) -> list[Any]:
    done = _Eliminated(g, a, None)
    sign: Value = done.sign
    size: Any = g.constant(0.0)
    for pivot in done.pivots:
        sign = mul(g, sign, LOWERING["sgn"](g, _flat(g, pivot)))
        size = add(g, size, g.pointwise("log", LOWERING["abs"](g, _flat(g, pivot))))
    return [sign, size, None, None]


# --- triangular matrices ----------------------------------------------------------------------------------------------
@rule("linalg_cholesky_ex")
def _cholesky(g: Graph, a: Value, upper: bool = False, check_errors: bool = False) -> list[Any]:  # noqa: ARG001
    if upper:
        a = conj(g, _turned(g, a))
    n, left, columns = a.shape[-1], _of_both_halves(g, a), []
    for k in range(n):
        corner = _columns(g, _rows(g, left, [0]), [0])
        root = g.pointwise("sqrt", corner.real if not isinstance(corner, Node) else corner)
        column: Value = root
        if k + 1 < n:
            below = LOWERING["div"](g, _columns(g, _rows(g, left, range(1, n - k)), [0]), root)
            column = LOWERING["cat"](g, [root, below], -2)
            rest = _columns(g, _rows(g, left, range(1, n - k)), range(1, n - k))
            left = _less(g, rest, mul(g, below, conj(g, _turned(g, below))))
        columns.append(LOWERING["constant_pad_nd"](g, column, [0, 0, k, 0]))
    lower = LOWERING["cat"](g, columns, -1)
    return [conj(g, _turned(g, lower)) if upper else lower, None]


def _of_both_halves(g: Graph, a: Value) -> Value:
    """A Hermitian matrix of which one half is read; as PyTorch's, its slope is shared by both."""
    half, other = g.constant(0.5), _turned(g, a)

    def shared(node: Node, turned: Node, sign: float) -> Node:
        return g.given(node, (node, half), (turned, g.constant(0.5 * sign)))

    if isinstance(a, Node):
        return shared(a, other, 1.0)
    return Pair(shared(a.real, other.real, 1.0), shared(a.imag, other.imag, -1.0))


@rule("linalg_solve_triangular")
def _solve_triangular(
    g: Graph, a: Value, b: Value, upper: bool, left: bool = True, unitriangular: bool = False
) -> Value:
    if not left:
        return _turned(g, _solve_triangular(g, _turned(g, a), _turned(g, b), not upper, True, unitriangular))
    n, found = a.shape[-1], {}
    for step in range(n):
        k = n - 1 - step if upper else step
        rest = range(k) if upper else range(k + 1, n)
        here = 0 if not upper else k
        row = _rows(g, b, [here])
        if not unitriangular:
            row = LOWERING["div"](g, row, _columns(g, _rows(g, a, [k]), [k]))
        found[k] = row
        if len(rest):
            others = _rows(g, b, range(k) if upper else range(1, n - k))
            b = _less(g, others, mul(g, _columns(g, _rows(g, a, rest), [k]), row))
    return LOWERING["cat"](g, [found[k] for k in range(n)], -2)


@rule("cholesky_solve")
def _cholesky_solve(g: Graph, b: Value, factor: Value, upper: bool = False) -> Value:
    other = conj(g, _turned(g, factor))
    first, second = (other, factor) if upper else (factor, other)
    return _solve_triangular(g, second, _solve_triangular(g, first, b, False), True)


@rule("cholesky_inverse")
def _cholesky_inverse(g: Graph, factor: Value, upper: bool = False) -> Value:
    n = factor.shape[-1]
    return _cholesky_solve(g, g.expand(_identity(g, n), (*factor.shape[:-2], n, n)), factor, upper)


# --- exponential ------------------------------------------------------------------------------------------------------
@rule("linalg_matrix_exp")
def _matrix_exp(g: Graph, a: Value) -> Value:
    """The series of a matrix halved until its norm is at most 1, squared as often."""
    n = a.shape[-1]
    sums = reduced(g, "sum", LOWERING["abs"](g, a), [-2], True)
    norm = reduced(g, "max", sums, [-1], True)
    times = g.pointwise("ceil", g.pointwise("log2", LOWERING["clamp"](g, norm, 1.0)))
    halved = mul(g, a, g.pointwise("exp", LOWERING["mul"](g, times, -math.log(2))))
    powers: list[Value] = [_identity(g, n), halved]
    while len(powers) < 5:
        powers.append(_product(g, powers[-1], halved))
    total: Any = None
    for i in reversed(range(0, TERMS, 4)):
        block: Any = 0.0
        for j in range(4):
            block = add(g, block, mul(g, powers[j], 1 / math.factorial(i + j)))
        total = block if total is None else add(g, _product(g, total, powers[4]), block)
    for i in range(SQUARINGS):
        more = g.pointwise("lt", g.constant(float(i)), times)
        total = LOWERING["where"](g, more, _product(g, total, total), total)
    known = g.pointwise("le", times, g.constant(float(SQUARINGS)))
    return LOWERING["where"](g, known, total, math.nan)
