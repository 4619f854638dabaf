"""Padding, convolutions, pooling, Fourier transforms and distances in terms of the graph's operations; see `lowering`.

A convolution is a sum over its taps, each a slice of the input; a Fourier transform of a composite length is made of
shorter ones.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import torch

from recurra.compiler.frontend import lowering_complex, lowering_order  # noqa: F401  (rules that are used here)
from recurra.compiler.frontend.graph import Graph, Node
from recurra.compiler.frontend.lowering import LOWERING, add, as_node, each, mul, pair, real, rule
from recurra.compiler.frontend.lowering_index import _back, _last, as_values, take
from recurra.compiler.frontend.lowering_shapes import _axis
from recurra.compiler.frontend.values import Pair, Value

LARGEST_FACTOR = 8
"""Of the length of a Fourier transform, if it has one so small."""


# --- padding ----------------------------------------------------------------------------------------------------------
@rule("constant_pad_nd")
def _pad(g: Graph, x: Value, pads: list[int], value: complex = 0) -> Value:
    rank = len(x.shape)
    for i in range(len(pads) // 2):
        axis, before, after = rank - 1 - i, pads[2 * i], pads[2 * i + 1]
        kept = range(max(0, -before), x.shape[axis] - max(0, -after))
        if len(kept) < x.shape[axis]:
            x = each(x, lambda node, axis=axis, kept=kept: take(g, node, axis, kept))  # type: ignore[misc]
        blocks = [_block(g, x, axis, n, value) for n in (before, after)]
        parts = [part for part in (blocks[0], x, blocks[1]) if part is not None]
        x = LOWERING["cat"](g, parts, axis) if len(parts) > 1 else x
    return x


def _block(g: Graph, x: Value, axis: int, size: int, value: complex) -> Value | None:
    """A value as wide as x but for one axis."""
    if size <= 0:
        return None
    shape = tuple(size if i == axis else n for i, n in enumerate(x.shape))
    return each(as_node(g, value), lambda node: g.expand(node, shape))


# --- windows ----------------------------------------------------------------------------------------------------------
def _per_axis(value: Any, count: int) -> list[int]:
    """An option of a window, which may be one number or a number per axis, or nothing."""
    values = value if isinstance(value, list) else [value]
    return [int(v) for v in (values * count if len(values) == 1 else values)]


def _taps(
    g: Graph, x: Value, kernel: list[int], stride: list[int], padding: list[int], dilation: list[int],
    filling: float = 0.0, ceil: bool = False,
) -> Iterator[tuple[tuple[int, ...], Value]]:  # fmt: skip
    """For every tap of a window over the last axes, what it sees at all places."""
    count = len(kernel)
    first = len(x.shape) - count
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    sizes, pads = [], []
    for i in range(count):
        free = x.shape[first + i] + 2 * padding[i] - spans[i]
        size = (-(-free // stride[i]) if ceil else free // stride[i]) + 1
        # A last window that would begin in the padding is left out.
        size -= int(ceil and (size - 1) * stride[i] >= x.shape[first + i] + padding[i])
        if size < 1:
            raise ValueError(f"a window of {spans[i]} over {x.shape[first + i]} elements")
        sizes.append(size)
        pads.append((padding[i], max(padding[i], (size - 1) * stride[i] + spans[i] - x.shape[first + i] - padding[i])))
    x = _pad(g, x, [n for pair in reversed(pads) for n in pair], filling)
    for tap in itertools.product(*map(range, kernel)):
        seen = x
        for i, at in enumerate(tap):
            places = [at * dilation[i] + j * stride[i] for j in range(sizes[i])]
            seen = each(seen, lambda node, i=i, places=places: take(g, node, first + i, places))  # type: ignore[misc]
        yield tap, seen


@rule("convolution")
def _convolution(
    g: Graph, x: Value, weight: Value, bias: Value | None, stride: list[int], padding: list[int], dilation: list[int],
    transposed: bool, output_padding: list[int], groups: int,
) -> Value:  # fmt: skip
    count = len(weight.shape) - 2
    options = [_per_axis(option, count) for option in (stride, padding, dilation, output_padding)]
    if transposed:
        x, weight, options = _as_forward(g, x, weight, *options, groups)
    batch, channels = x.shape[:2]
    outs, ins = weight.shape[0] // groups, channels // groups
    kernel, total = list(weight.shape[2:]), None
    for tap, seen in _taps(g, x, kernel, *options[:3]):
        places = seen.shape[2:]
        at = _at_tap(g, weight, tap)
        at = each(at, lambda node: g.reshape(node, (1, groups, outs, ins, *[1] * count)))
        seen = each(seen, lambda node, places=places: g.reshape(node, (batch, groups, 1, ins, *places)))
        term = LOWERING["sum"](g, mul(g, at, seen), [3])
        total = term if total is None else add(g, total, term)
    total = each(total, lambda node: g.reshape(node, (batch, groups * outs, *places)))  # type: ignore[arg-type]
    if bias is None:
        return total
    return add(g, total, each(bias, lambda node: g.reshape(node, (1, groups * outs, *[1] * count))))


def _at_tap(g: Graph, weight: Value, tap: tuple[int, ...]) -> Value:
    """The matrix [out, in] of one tap."""
    starts, sizes = (0, 0, *tap), (*weight.shape[:2], *[1] * len(tap))
    return each(weight, lambda node: g.reshape(g.slice(node, starts, sizes), weight.shape[:2]))


def _as_forward(
    g: Graph, x: Value, weight: Value, stride: list[int], padding: list[int], dilation: list[int],
    output_padding: list[int], groups: int,
) -> tuple[Value, Value, list[list[int]]]:  # fmt: skip
    """A transposed convolution as one whose input has zeros between its elements, and whose taps are turned."""
    count, ones = len(stride), [1] * len(stride)
    for i in range(count):
        axis = 2 + i
        size = x.shape[axis]
        whole = each(x, lambda node, axis=axis: g.reshape(node, (*node.shape[: axis + 1], 1, *node.shape[axis + 1 :])))  # type: ignore[misc]
        pads = [0, 0] * (len(whole.shape) - axis - 2) + [0, stride[i] - 1]
        whole = _pad(g, whole, pads)
        shape = (*x.shape[:axis], size * stride[i], *x.shape[axis + 1 :])
        x = each(whole, lambda node, shape=shape: g.reshape(node, shape))  # type: ignore[misc]
        edge = dilation[i] * (weight.shape[axis] - 1) - padding[i]
        pads = [0, 0] * (count - 1 - i) + [edge, edge + output_padding[i] - (stride[i] - 1)]
        x = _pad(g, x, pads)
    ins, outs = weight.shape[:2]
    kernel = weight.shape[2:]
    turned = LOWERING["flip"](g, weight, list(range(2, 2 + count)))
    shape = (groups, ins // groups, outs, *kernel)
    order = (0, 2, 1, *range(3, 3 + count))
    turned = each(turned, lambda node: g.permute(g.reshape(node, shape), order))
    turned = each(turned, lambda node: g.reshape(node, (groups * outs, ins // groups, *kernel)))
    return x, turned, [ones, [0] * count, dilation, [0] * count]


@rule("max_pool2d_with_indices", "max_pool3d_with_indices")
def _max_pool(
    g: Graph, x: Node, kernel: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1, ceil: bool = False
) -> list[Value]:
    """The first of those alike, and where it is in the plane."""
    count = len(kernel)
    plane = x.shape[-count:]
    places = g.table(range(math.prod(plane)), plane)
    options = [_per_axis(o, count) for o in (stride or kernel, padding, dilation)]
    values = _taps(g, real(g, x), kernel, *options, filling=-math.inf, ceil=ceil)
    where = _taps(g, places, kernel, *options, ceil=ceil)
    return _best(g, [(seen, at) for (_, seen), (_, at) in zip(values, where, strict=True)])


def _best(g: Graph, candidates: list[tuple[Any, Any]]) -> list[Value]:
    """The largest of some values with their places: of those alike the first, of NaN the last."""
    best: Any = None
    for seen, at in candidates:
        at = g.expand(at, seen.shape)
        if best is not None:
            better = g.pointwise("or", g.pointwise("lt", best[0], seen), LOWERING["isnan"](g, seen))
            seen, at = (LOWERING["where"](g, better, new, old) for new, old in zip((seen, at), best, strict=True))
        best = [seen, at]
    return best


@rule("avg_pool2d", "avg_pool3d")
def _avg_pool(
    g: Graph, x: Value, kernel: list[int], stride: Any = (), padding: Any = 0, ceil: bool = False,
    count_include_pad: bool = True, divisor_override: int | None = None,
) -> Value:  # fmt: skip
    count = len(kernel)
    options = [_per_axis(o, count) for o in (stride or kernel, padding, 1)]
    total, inside = None, None
    if ceil and any(options[1]) and count_include_pad and not divisor_override:
        raise ValueError("ceil_mode with padding")
    ones = g.expand(g.constant(1.0), x.shape[-count:])
    for (_, seen), (_, one) in zip(
        _taps(g, x, kernel, *options, ceil=ceil), _taps(g, ones, kernel, *options, ceil=ceil), strict=True
    ):
        total = seen if total is None else add(g, total, seen)
        inside = one if inside is None else add(g, inside, one)
    if divisor_override or (count_include_pad and not ceil):
        return LOWERING["div"](g, total, divisor_override or math.prod(kernel))
    return LOWERING["div"](g, total, inside)


@rule("_adaptive_avg_pool2d", "_adaptive_avg_pool3d")
def _adaptive_avg_pool(g: Graph, x: Value, sizes: list[int]) -> Value:
    for i, size in enumerate(reversed(sizes)):
        axis = len(x.shape) - 1 - i
        ends = [_adaptive(j, size, x.shape[axis]) for j in range(size)]
        parts = [LOWERING["slice"](g, x, axis, *end) for end in ends]
        x = LOWERING["cat"](g, [LOWERING["mean"](g, part, [axis], True) for part in parts], axis)
    return x


@rule("adaptive_max_pool2d", "adaptive_max_pool3d")
def _adaptive_max_pool(g: Graph, x: Node, sizes: list[int]) -> list[Value]:
    count = len(sizes)
    plane = x.shape[-count:]
    places = torch.arange(math.prod(plane)).view(plane)
    values, where = [], []
    for block in itertools.product(*map(range, sizes)):
        ends = [_adaptive(j, size, n) for j, size, n in zip(block, sizes, plane, strict=True)]
        part: Value = x
        for i, end in enumerate(ends):
            part = LOWERING["slice"](g, part, i - count, *end)
        rows = LOWERING["view"](g, part, [*x.shape[:-count], -1])
        own = places[tuple(slice(*end) for end in ends)].flatten().tolist()
        each_one = [LOWERING["slice"](g, rows, -1, i, i + 1) for i in range(len(own))]
        best, at = _best(g, [(seen, g.constant(float(n))) for seen, n in zip(each_one, own, strict=True)])
        values.append(best)
        where.append(at)
    shape = (*x.shape[:-count], *sizes)
    return [each(LOWERING["cat"](g, part, -1), lambda node: g.reshape(node, shape)) for part in (values, where)]


def _adaptive(j: int, size: int, n: int) -> tuple[int, int]:
    """From where to where the window number j of `size` over n elements goes."""
    return j * n // size, -(-(j + 1) * n // size)


# --- Fourier transforms -----------------------------------------------------------------------------------------------
def _fourier(g: Graph, z: Pair, sign: int) -> Pair:
    """Along the last axis: sum over j of z_j exp(sign 2 pi i j k / n), by factors of n."""
    n, rest = z.shape[-1], z.shape[:-1]
    # Few large factors make few operations on whole rows, which is worth more than few multiplications.
    factor = next(p for p in (*range(min(n, LARGEST_FACTOR), 1, -1), *range(LARGEST_FACTOR, n + 1), 1) if n % p == 0)
    m = n // factor
    columns = _map(g, z, (*rest, factor, m))
    a = _halves(g, columns) if factor == 2 else _along_factor(g, columns, sign)
    if m == 1:
        return _map(g, a, (*rest, n))
    a = pair(g, mul(g, a, _circle(g, torch.outer(torch.arange(factor), torch.arange(m)) % n, n, sign)))
    b = _fourier(g, a, sign)
    axes = len(rest)
    order = (*range(axes), axes + 1, axes)
    return Pair(*(g.reshape(g.permute(part, order), (*rest, n)) for part in (b.real, b.imag)))


def _map(g: Graph, z: Pair, shape: tuple[int, ...]) -> Pair:
    return Pair(g.reshape(z.real, shape), g.reshape(z.imag, shape))


def _circle(g: Graph, turns: torch.Tensor, n: int, sign: int) -> Pair:
    """exp(sign 2 pi i turns / n); numbers that are known exactly are exact."""
    exact = {0.0: 1.0, 0.25: 0.0, 0.5: -1.0, 0.75: 0.0}
    cos = [exact.get(t / n, math.cos(2 * math.pi * t / n)) for t in turns.flatten().tolist()]
    sin = [exact.get((t / n + 0.75) % 1, math.sin(2 * math.pi * t / n)) for t in turns.flatten().tolist()]
    parts = (torch.tensor(part, dtype=torch.float64).view(turns.shape) for part in (cos, [sign * s for s in sin]))
    return Pair(*(as_values(g, part) for part in parts))


def _halves(g: Graph, columns: Pair) -> Pair:
    """Sums and differences of two rows [..., 2, m]."""
    first, second = (LOWERING["slice"](g, columns, -2, i, i + 1) for i in range(2))
    return pair(g, LOWERING["cat"](g, [add(g, first, second), add(g, first, second, op="sub")], -2))


def _along_factor(g: Graph, columns: Pair, sign: int) -> Pair:
    """sum over j of exp(sign 2 pi i j k / p) columns[..., j, m] for rows [..., p, m]."""
    *rest, factor, m = columns.shape
    turns = torch.outer(torch.arange(factor), torch.arange(factor)) % factor
    wide = _map(g, columns, (*rest, 1, factor, m))
    product = pair(g, mul(g, wide, _map(g, _circle(g, turns, factor, sign), (factor, factor, 1))))
    return pair(g, LOWERING["sum"](g, product, [-2]))


def _scale(sizes: list[int], normalization: int) -> float:
    """What PyTorch's numbers for "backward", "ortho" and "forward" mean."""
    return (1.0, math.prod(sizes) ** -0.5, 1 / math.prod(sizes))[normalization]


def _transformed(g: Graph, z: Value, axes: list[int], normalization: int, sign: int) -> Value:
    z, sizes = pair(g, z), [z.shape[axis] for axis in axes]
    for axis in axes:
        at = _axis(axis, len(z.shape))
        z = pair(g, _back(g, _fourier(g, pair(g, _last(g, z, at)), sign), at))
    scale = _scale(sizes, normalization)
    return mul(g, z, scale) if scale != 1 else z


@rule("_fft_c2c")
def _fft_c2c(g: Graph, z: Value, axes: list[int], normalization: int, forward: bool) -> Value:
    return _transformed(g, z, axes, normalization, -1 if forward else 1)


@rule("_fft_r2c")
def _fft_r2c(g: Graph, x: Value, axes: list[int], normalization: int, onesided: bool) -> Value:
    z, axis = _transformed(g, x, axes, normalization, -1), _axis(axes[-1], len(x.shape))
    half = range(x.shape[axis] // 2 + 1) if onesided else range(x.shape[axis])
    return each(z, lambda node: take(g, node, axis, half))


@rule("_fft_c2r")
def _fft_c2r(g: Graph, z: Pair, axes: list[int], normalization: int, size: int) -> Node:
    """The missing half of the last axis is the conjugate of what is there; ends that must be real are taken so."""
    axis = _axis(axes[-1], len(z.shape))
    rest = [a for a in axes[:-1]]
    z = pair(g, _transformed(g, z, rest, 0, 1)) if rest else z
    ends = [0, size // 2] if size % 2 == 0 else [0]
    weights = [0.0 if i in ends else 1.0 for i in range(size // 2 + 1)]
    shape = tuple(len(weights) if i == axis else 1 for i in range(len(z.shape)))
    mask = g.reshape(as_values(g, torch.tensor(weights)), shape)
    z = Pair(z.real, g.pointwise("where", LOWERING["ne"](g, mask, 0.0), z.imag, g.constant(0.0)))
    back = [size - i for i in range(size // 2 + 1, size)]
    both = [take(g, part, axis, [*range(size // 2 + 1), *back]) for part in (z.real, z.imag)]
    signs = [1.0] * (size // 2 + 1) + [-1.0] * len(back)
    turned = tuple(size if i == axis else 1 for i in range(len(z.shape)))
    whole = Pair(both[0], g.pointwise("mul", both[1], g.reshape(as_values(g, torch.tensor(signs)), turned)))
    total = pair(g, _transformed(g, whole, [axis], 0, 1)).real
    scale = _scale([size if a == axes[-1] else z.shape[a] for a in axes], normalization)
    return g.pointwise("mul", total, g.constant(scale))


# --- distances and forms ----------------------------------------------------------------------------------------------
@rule("_cdist_forward")
def _cdist(g: Graph, a: Node, b: Node, p: float, mode: int | None = None) -> Node:  # noqa: ARG001
    *rest, m, k = a.shape
    n = b.shape[-2]
    a, b = g.reshape(a, (*rest, m, 1, k)), g.reshape(b, (*b.shape[:-2], 1, n, k))
    return _length(g, g.pointwise("sub", a, b), p)


@rule("_pdist_forward")
def _pdist(g: Graph, x: Node, p: float = 2) -> Node:
    n = x.shape[0]
    rows, columns = torch.triu_indices(n, n, 1)
    parts = [take(g, x, 0, which.tolist()) for which in (rows, columns)]
    return _length(g, g.pointwise("sub", *parts), p)


def _length(g: Graph, x: Node, p: float) -> Node:
    """The p-norm along the last axis."""
    nan, axis = LOWERING["isnan"](g, x), len(x.shape) - 1
    size = g.given(g.pointwise("abs", x), (x, g.pointwise("where", nan, x, g.pointwise("sign", x))))
    if p == math.inf:
        return g.reduce("max", size, (axis,))
    if p == 0:
        return g.reduce("sum", real(g, LOWERING["ne"](g, size, 0.0)), (axis,))
    if p == 1:
        return g.reduce("sum", size, (axis,))
    total = g.reduce("sum", g.pointwise("pow", size, g.constant(float(p))), (axis,))
    # At nothing the root has no slope; PyTorch takes it for flat.
    nothing = g.pointwise("eq", total, g.constant(0.0))
    held = g.pointwise("where", nothing, g.constant(1.0), total)
    return g.pointwise("where", nothing, g.constant(0.0), g.pointwise("pow", held, g.constant(1 / p)))


@rule("_trilinear")
def _trilinear(
    g: Graph, a: Value, b: Value, c: Value, a_axes: list[int], b_axes: list[int], c_axes: list[int],
    summed: list[int], *_: Any,
) -> Value:  # fmt: skip
    product: Any = None
    for x, axes in ((a, a_axes), (b, b_axes), (c, c_axes)):
        for axis in axes:
            x = LOWERING["unsqueeze"](g, x, axis)
        product = x if product is None else mul(g, product, x)
    return LOWERING["sum"](g, product, summed)
