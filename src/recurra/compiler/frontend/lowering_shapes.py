"""Views, new tensors, reductions and products of PyTorch in terms of the graph's; see `lowering`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from recurra.compiler.frontend.graph import Graph, Node
from recurra.compiler.frontend.lowering import LOWERING, add, as_node, boolean, conj, each, mul, pair, real, rule
from recurra.compiler.frontend.values import Pair, Value


# --- views and copies -------------------------------------------------------------------------------------------------
def _axis(axis: int, rank: int) -> int:
    return axis + rank if axis < 0 else axis


@rule("alias", "detach", "clone")
def _same(_graph: Graph, x: Value, *_: Any, **__: Any) -> Value:
    return x


@rule("block_diag")
def _block_diag(g: Graph, parts: list[Value]) -> Value:
    matrices = [_view(g, x, [*(1,) * (2 - len(x.shape)), *x.shape]) for x in parts]
    ends = [[sum(x.shape[i] for x in matrices[:n]) for n in range(len(matrices) + 1)] for i in (0, 1)]
    offsets, shape = list(zip(*ends, strict=True))[:-1], tuple(end[-1] for end in ends)
    if all(isinstance(x, Node) for x in matrices):
        return g.assemble(matrices, offsets, shape)  # type: ignore[arg-type]
    pairs = [pair(g, x) for x in matrices]
    return Pair(*(g.assemble(part, offsets, shape) for part in ([p.real for p in pairs], [p.imag for p in pairs])))


@rule("_to_copy")
def _to_copy(g: Graph, x: Value, dtype: Any = None, **_: Any) -> Value:
    if isinstance(x, Pair) or dtype is None or dtype.is_floating_point:
        return x if isinstance(x, Pair) else (x if dtype is None else real(g, x))
    if dtype.is_complex:
        return pair(g, x)
    if str(dtype) == "torch.bool":
        return boolean(g, x)
    if str(dtype) in ("torch.int64", "torch.int32"):
        return real(g, x) if x.is_bool else g.pointwise("trunc", x)
    raise TypeError(f"a conversion to {dtype}")


@rule("view", "_unsafe_view", "_reshape_alias")
def _view(g: Graph, x: Value, shape: list[int], *_: Any) -> Value:
    known = math.prod(n for n in shape if n != -1)
    full = tuple(math.prod(x.shape) // known if n == -1 else n for n in shape)
    return each(x, lambda node: g.reshape(node, full))


@rule("unsqueeze")
def _unsqueeze(g: Graph, x: Value, axis: int) -> Value:
    axis = _axis(axis, len(x.shape) + 1)
    return each(x, lambda node: g.reshape(node, (*node.shape[:axis], 1, *node.shape[axis:])))


@rule("squeeze")
def _squeeze(g: Graph, x: Value, axes: Any = None) -> Value:
    rank = len(x.shape)
    wanted = range(rank) if axes is None else [_axis(a, rank) for a in (axes if isinstance(axes, list) else [axes])]
    shape = tuple(n for i, n in enumerate(x.shape) if not (i in wanted and n == 1))
    return each(x, lambda node: g.reshape(node, shape))


@rule("permute")
def _permute(g: Graph, x: Value, order: list[int]) -> Value:
    return each(x, lambda node: g.permute(node, tuple(_axis(i, len(order)) for i in order)))


@rule("transpose", "t")
def _transpose(g: Graph, x: Value, a: int = 0, b: int = 1) -> Value:
    rank = len(x.shape)
    if rank < 2:
        return x
    order = list(range(rank))
    a, b = _axis(a, rank), _axis(b, rank)
    order[a], order[b] = order[b], order[a]
    return _permute(g, x, order)


@rule("expand")
def _expand(g: Graph, x: Value, shape: list[int], **_: Any) -> Value:
    padded = (1,) * (len(shape) - len(x.shape)) + x.shape
    full = tuple(m if n == -1 else n for n, m in zip(shape, padded, strict=True))
    return each(x, lambda node: g.expand(node, full))


@rule("slice")
def _slice(g: Graph, x: Value, axis: int = 0, start: int | None = None, end: int | None = None, step: int = 1) -> Value:
    axis, size = _axis(axis, len(x.shape)), x.shape[_axis(axis, len(x.shape))]
    positions = range(size)[slice(start, end, step)]
    if step == 1:
        return each(x, lambda node: _narrow(g, node, axis, positions.start, len(positions)))
    return each(x, lambda node: g.concat([_narrow(g, node, axis, i, 1) for i in positions], axis))


def _narrow(g: Graph, x: Node, axis: int, start: int, size: int) -> Node:
    starts = tuple(start if i == axis else 0 for i in range(len(x.shape)))
    return g.slice(x, starts, tuple(size if i == axis else n for i, n in enumerate(x.shape)))


@rule("select")
def _select(g: Graph, x: Value, axis: int, index: int) -> Value:
    axis = _axis(axis, len(x.shape))
    index = _axis(index, x.shape[axis])
    shape = x.shape[:axis] + x.shape[axis + 1 :]
    return each(x, lambda node: g.reshape(_narrow(g, node, axis, index, 1), shape))


@rule("unbind")
def _unbind(g: Graph, x: Value, axis: int = 0) -> list[Value]:
    return [_select(g, x, axis, i) for i in range(x.shape[_axis(axis, len(x.shape))])]


@rule("split", "split_with_sizes")
def _split(g: Graph, x: Value, sizes: Any, axis: int = 0) -> list[Value]:
    axis = _axis(axis, len(x.shape))
    whole = x.shape[axis]
    if isinstance(sizes, int):
        sizes = [min(sizes, whole - i) for i in range(0, whole, sizes)]
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return [_slice(g, x, axis, a, a + n) for a, n in zip(starts, sizes, strict=True)]


@rule("cat")
def _cat(g: Graph, parts: list[Value], axis: int = 0) -> Value:
    axis = _axis(axis, len(parts[0].shape))
    if any(isinstance(part, Pair) for part in parts):
        pairs = [pair(g, part) for part in parts]
        return Pair(g.concat([p.real for p in pairs], axis), g.concat([p.imag for p in pairs], axis))
    return g.concat([real(g, part) for part in parts], axis)


@rule("stack")
def _stack(g: Graph, parts: list[Value], axis: int = 0) -> Value:
    return _cat(g, [_unsqueeze(g, part, axis) for part in parts], _axis(axis, len(parts[0].shape) + 1))


@rule("flip")
def _flip(g: Graph, x: Value, axes: list[int]) -> Value:
    for axis in axes:
        axis = _axis(axis, len(x.shape))
        x = _cat(g, [_slice(g, x, axis, i, i + 1) for i in reversed(range(x.shape[axis]))], axis)
    return x


@rule("select_backward")
def _select_backward(g: Graph, d: Node, shape: list[int], axis: int, index: int) -> Node:
    axis = _axis(axis, len(shape))
    part = g.reshape(d, (*shape[:axis], 1, *shape[axis + 1 :]))
    offset = tuple(_axis(index, shape[axis]) if i == axis else 0 for i in range(len(shape)))
    return g.assemble((part,), (offset,), tuple(shape))


@rule("slice_backward")
def _slice_backward(g: Graph, d: Node, shape: list[int], axis: int, start: int, end: int, step: int) -> Node:
    if step != 1:
        raise ValueError("the gradient of a slice with a step")
    axis = _axis(axis, len(shape))
    start = range(shape[axis])[slice(start, end)].start
    return g.assemble((d,), (tuple(start if i == axis else 0 for i in range(len(shape))),), tuple(shape))


# --- new tensors ------------------------------------------------------------------------------------------------------
def _filled(value: float) -> Callable[..., Node]:
    return lambda g, x, *_, **__: g.expand(g.constant(value), x.shape)


rule("zeros_like", "new_zeros", "zero")(_filled(0.0))
rule("fill")(lambda g, x, value: each(as_node(g, value), lambda node: g.expand(node, x.shape)))
rule("ones_like", "new_ones")(_filled(1.0))
LOWERING["new_zeros"] = lambda g, x, shape, **_: g.expand(g.constant(0.0), tuple(shape))
LOWERING["new_ones"] = lambda g, x, shape, **_: g.expand(g.constant(1.0), tuple(shape))
rule("full_like")(lambda g, x, value, **_: each(as_node(g, value), lambda node: g.expand(node, x.shape)))
rule("new_full")(lambda g, x, shape, value, **_: each(as_node(g, value), lambda node: g.expand(node, tuple(shape))))


# --- reductions and products ------------------------------------------------------------------------------------------
def _axes(axes: Any, rank: int) -> list[int]:
    if axes is None or axes == []:
        return list(range(rank))
    return [_axis(a, rank) for a in (axes if isinstance(axes, list) else [axes])]


def reduced(g: Graph, op: str, x: Node, axes: Any, keepdim: bool) -> Node:
    """A sum or maximum over axes as PyTorch gives them; none are all."""
    wanted = _axes(axes, len(x.shape))
    result = g.reduce(op, x, wanted)
    return g.reshape(result, tuple(1 if i in wanted else n for i, n in enumerate(x.shape))) if keepdim else result


@rule("sum")
def _sum(g: Graph, x: Value, axes: Any = None, keepdim: bool = False, **_: Any) -> Value:
    return each(x, lambda node: reduced(g, "sum", real(g, node), axes, keepdim))


@rule("mean")
def _mean(g: Graph, x: Value, axes: Any = None, keepdim: bool = False, **_: Any) -> Value:
    count = g.constant(float(math.prod(x.shape[i] for i in _axes(axes, len(x.shape)))))
    return each(x, lambda node: g.pointwise("div", reduced(g, "sum", node, axes, keepdim), count))


@rule("amax")
def _amax(g: Graph, x: Node, axes: Any = None, keepdim: bool = False) -> Node:
    return reduced(g, "max", x, axes, keepdim)


@rule("var_mean")
def variance_and_mean(
    g: Graph, x: Node, axes: Any = None, correction: float | None = None, keepdim: bool = False
) -> list[Node]:
    """The variance over axes, divided by their count less `correction` (of 1, if there is none), and the mean."""
    mean = _mean(g, x, axes, True)
    centred = g.pointwise("sub", x, mean)
    count = math.prod(x.shape[i] for i in _axes(axes, len(x.shape)))
    # What the mean changes in the sum of squares is nothing: left out, as PyTorch does, it is not even a rounding.
    square = g.given(g.pointwise("mul", centred, centred), (x, g.pointwise("mul", g.constant(2.0), centred)))
    total = reduced(g, "sum", square, axes, keepdim)
    rest = max(0.0, count - (1 if correction is None else correction))
    return [g.pointwise("div", total, g.constant(rest)), _mean(g, x, axes, keepdim)]


rule("var")(lambda g, *args, **kwargs: variance_and_mean(g, *args, **kwargs)[0])


@rule("native_layer_norm")
def _layer_norm(g: Graph, x: Node, shape: list[int], weight: Node | None, bias: Node | None, eps: float) -> list[Node]:
    axes = list(range(-len(shape), 0))
    variance, mean = variance_and_mean(g, x, axes, 0, True)
    scale = g.pointwise("div", g.constant(1.0), g.pointwise("sqrt", add(g, variance, eps)))
    y = mul(g, add(g, x, mean, op="sub"), scale)
    y = y if weight is None else mul(g, y, weight)
    return [y if bias is None else add(g, y, bias), mean, scale]


@rule("_softmax")
def _softmax(g: Graph, x: Node, axis: int, *_: Any) -> Node:
    exp = g.pointwise("exp", g.pointwise("sub", x, reduced(g, "max", x, axis, True)))
    return g.pointwise("div", exp, reduced(g, "sum", exp, axis, True))


def _product(g: Graph, multiply: Callable[[Graph, Node, Node], Node], a: Value, b: Value) -> Value:
    """A product of real values as one of real or complex values."""
    if isinstance(a, Pair) or isinstance(b, Pair):
        a, b = pair(g, a), pair(g, b)
        across = g.pointwise("sub", multiply(g, a.real, b.real), multiply(g, a.imag, b.imag))
        return Pair(across, g.pointwise("add", multiply(g, a.real, b.imag), multiply(g, a.imag, b.real)))
    return multiply(g, a, b)


@rule("mv")
def _mv(g: Graph, a: Value, b: Value) -> Value:
    return _product(g, Graph.matvec, a, b)


@rule("addmv")
def _addmv(g: Graph, c: Value, a: Value, b: Value, beta: float = 1, alpha: float = 1) -> Value:
    return add(g, mul(g, c, beta) if beta != 1 else c, mul(g, _mv(g, a, b), alpha) if alpha != 1 else _mv(g, a, b))


@rule("dot", "vdot")
def _dot(g: Graph, a: Value, b: Value) -> Value:
    return _sum(g, mul(g, a, b))


LOWERING["vdot"] = lambda g, a, b: _dot(g, conj(g, a), b)


@rule("mm")
def _mm(g: Graph, a: Value, b: Value) -> Value:
    return _product(g, _real_mm, a, b)


def _real_mm(g: Graph, a: Node, b: Node) -> Node:
    (m, k), n = a.shape, b.shape[1]
    if n == 1:
        return g.reshape(g.matvec(a, g.reshape(b, (k,))), (m, 1))
    if m == 1:
        return g.reshape(g.matvec(g.permute(b, (1, 0)), g.reshape(a, (k,))), (1, n))
    if b.op == "permute":  # the transpose of what lies in memory, along whose rows the sums then run
        rows = g.reshape(g.permute(b, (1, 0)), (1, n, k))
        return g.reduce("sum", g.pointwise("mul", g.reshape(a, (m, 1, k)), rows), (2,))
    return g.reduce("sum", g.pointwise("mul", g.reshape(a, (m, k, 1)), g.reshape(b, (1, k, n))), (1,))


@rule("addmm")
def _addmm(g: Graph, c: Value, a: Value, b: Value, beta: float = 1, alpha: float = 1) -> Value:
    product = _mm(g, a, b)
    return add(g, mul(g, c, beta) if beta != 1 else c, mul(g, product, alpha) if alpha != 1 else product)


@rule("bmm")
def _bmm(g: Graph, a: Value, b: Value) -> Value:
    return _product(g, _real_bmm, a, b)


def _real_bmm(g: Graph, a: Node, b: Node) -> Node:
    (batch, m, k), n = a.shape, b.shape[2]
    if batch == 1:
        return g.reshape(_real_mm(g, g.reshape(a, (m, k)), g.reshape(b, (k, n))), (1, m, n))
    wide = g.pointwise("mul", g.reshape(a, (batch, m, k, 1)), g.reshape(b, (batch, 1, k, n)))
    return g.reduce("sum", wide, (2,))


# --- complex ----------------------------------------------------------------------------------------------------------


rule("complex")(lambda g, a, b: Pair(a, b))
rule("view_as_real")(lambda g, x: _stack(g, [x.real, x.imag], -1))
rule("view_as_complex")(lambda g, x: Pair(_select(g, x, -1, 0), _select(g, x, -1, 1)))
