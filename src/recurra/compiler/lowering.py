"""PyTorch's operations in terms of the graph's: one table row each. Complex values are pairs of real ones."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from recurra.compiler.graph import Graph, Node


@dataclass(frozen=True)
class Pair:
    """A complex value."""

    real: Node
    imag: Node

    @property
    def shape(self) -> tuple[int, ...]:
        return self.real.shape


Value = Node | Pair
LOWERING: dict[str, Callable[..., Any]] = {}
"""Name of the operation in ATen -> function(graph, arguments with nodes for tensors) -> node, pair or list of them."""


def rule(*names: str) -> Callable[[Callable], Callable]:
    """Enter a function in the table."""

    def enter(function: Callable) -> Callable:
        LOWERING.update(dict.fromkeys(names, function))
        return function

    return enter


def _node(g: Graph, value: Any) -> Value:
    """A tensor's node, or a Python number as one."""
    if isinstance(value, complex):
        return Pair(g.constant(value.real), g.constant(value.imag))
    return value if isinstance(value, Node | Pair) else g.constant(float(value))


def _real(g: Graph, value: Any) -> Node:
    """A real operand; booleans become 0 and 1."""
    node = _node(g, value)
    if isinstance(node, Pair):
        raise TypeError("a complex operand")
    return g.pointwise("where", node, g.constant(1.0), g.constant(0.0)) if node.is_bool else node


def _pair(g: Graph, value: Any) -> Pair:
    node = _node(g, value)
    return node if isinstance(node, Pair) else Pair(_real(g, node), g.expand(g.constant(0.0), node.shape))


def _bool(g: Graph, value: Any) -> Node:
    node = _node(g, value)
    assert isinstance(node, Node)
    return node if node.is_bool else g.pointwise("not", g.pointwise("eq", node, g.constant(0.0)))


# --- pointwise ------------------------------------------------------------------------------------------------------
def _pointwise(op: str) -> Callable[..., Node]:
    return lambda g, *args: g.pointwise(op, *(_real(g, a) for a in args))


for _name in ("log", "log1p", "expm1", "sqrt", "sigmoid", "tanh", "erf", "sin", "cos", "sign", "floor",
              "maximum", "minimum"):  # fmt: skip
    rule(_name)(_pointwise(_name))
rule("pow")(lambda g, base, exponent: _power(g, _real(g, base), _real(g, exponent)))
rule("reciprocal")(lambda g, x: _div(g, 1.0, x))
rule("rsqrt")(lambda g, x: g.pointwise("div", g.constant(1.0), g.pointwise("sqrt", x)))
rule("square")(lambda g, x: _mul(g, x, x))
rule("exp2")(lambda g, x: g.pointwise("exp", g.pointwise("mul", _real(g, x), g.constant(math.log(2)))))


def _power(g: Graph, base: Node, exponent: Node) -> Node:
    known = g.value(exponent)
    if known == 2.0:
        return g.pointwise("mul", base, base)
    if known == 0.5:
        return g.pointwise("sqrt", base)
    if known == -1.0:
        return g.pointwise("div", g.constant(1.0), base)
    return g.pointwise("pow", base, exponent)


def _add(g: Graph, a: Any, b: Any, alpha: float = 1, op: str = "add") -> Value:
    a, b = _node(g, a), _node(g, b)
    b = _mul(g, b, alpha) if alpha != 1 else b
    if isinstance(a, Pair) or isinstance(b, Pair):
        a, b = _pair(g, a), _pair(g, b)
        return Pair(g.pointwise(op, a.real, b.real), g.pointwise(op, a.imag, b.imag))
    return g.pointwise(op, _real(g, a), _real(g, b))


rule("add")(_add)
rule("sub")(lambda g, a, b, alpha=1: _add(g, a, b, alpha, "sub"))
rule("rsub")(lambda g, a, b, alpha=1: _add(g, b, a, alpha, "sub"))


@rule("mul")
def _mul(g: Graph, a: Any, b: Any) -> Value:
    a, b = _node(g, a), _node(g, b)
    if isinstance(a, Pair) and isinstance(b, Pair):

        def product(op: str, p: Node, q: Node, r: Node, s: Node) -> Node:
            return g.pointwise(op, g.pointwise("mul", p, q), g.pointwise("mul", r, s))

        return Pair(product("sub", a.real, b.real, a.imag, b.imag), product("add", a.real, b.imag, a.imag, b.real))
    if isinstance(b, Pair):
        a, b = b, a
    if isinstance(a, Pair):
        factor = _real(g, b)
        return Pair(g.pointwise("mul", a.real, factor), g.pointwise("mul", a.imag, factor))
    if a.is_bool and b.is_bool:
        return g.pointwise("and", a, b)
    return g.pointwise("mul", _real(g, a), _real(g, b))


@rule("div")
def _div(g: Graph, a: Any, b: Any) -> Value:
    a, b = _node(g, a), _node(g, b)
    if isinstance(b, Pair):
        size = g.pointwise("add", g.pointwise("mul", b.real, b.real), g.pointwise("mul", b.imag, b.imag))
        return _div(g, _mul(g, a, _conj(g, b)), size)
    if isinstance(a, Pair):
        divisor = _real(g, b)
        return Pair(g.pointwise("div", a.real, divisor), g.pointwise("div", a.imag, divisor))
    return g.pointwise("div", _real(g, a), _real(g, b))


@rule("neg")
def _neg(g: Graph, x: Value) -> Value:
    return _each(x, lambda node: g.pointwise("neg", _real(g, node)))


@rule("exp")
def _exp(g: Graph, x: Value) -> Value:
    if not isinstance(x, Pair):
        return g.pointwise("exp", _real(g, x))
    size = g.pointwise("exp", x.real)
    return Pair(
        g.pointwise("mul", size, g.pointwise("cos", x.imag)), g.pointwise("mul", size, g.pointwise("sin", x.imag))
    )


@rule("abs")
def _abs(g: Graph, x: Value) -> Node:
    if not isinstance(x, Pair):
        return g.pointwise("abs", _real(g, x))
    square = g.pointwise("add", g.pointwise("mul", x.real, x.real), g.pointwise("mul", x.imag, x.imag))
    return g.pointwise("sqrt", square)


@rule("relu")
def _relu(g: Graph, x: Node) -> Node:
    return g.pointwise("where", g.pointwise("le", x, g.constant(0.0)), g.constant(0.0), x)


@rule("leaky_relu")
def _leaky_relu(g: Graph, x: Node, slope: float = 0.01) -> Node:
    return g.pointwise(
        "where", g.pointwise("lt", g.constant(0.0), x), x, g.pointwise("mul", x, g.constant(float(slope)))
    )


@rule("clamp", "clamp_min", "clamp_max", "hardtanh")
def _clamp(g: Graph, x: Node, min: Any = None, max: Any = None) -> Node:
    if min is not None:
        x = g.pointwise("where", g.pointwise("lt", x, _real(g, min)), _real(g, min), x)
    if max is not None:
        x = g.pointwise("where", g.pointwise("lt", _real(g, max), x), _real(g, max), x)
    return x


LOWERING["clamp_max"] = lambda g, x, max: _clamp(g, x, None, max)


@rule("softplus")
def _softplus(g: Graph, x: Node, beta: float = 1, threshold: float = 20) -> Node:
    scaled = g.pointwise("mul", x, g.constant(float(beta)))
    soft = g.pointwise("div", g.pointwise("softplus", scaled), g.constant(float(beta)))
    return g.pointwise("where", g.pointwise("lt", g.constant(float(threshold)), scaled), x, soft)


@rule("silu")
def _silu(g: Graph, x: Node) -> Node:
    return g.pointwise("mul", x, g.pointwise("sigmoid", x))


@rule("gelu")
def _gelu(g: Graph, x: Node, approximate: str = "none") -> Value:
    if approximate == "tanh":
        inner = _mul(g, math.sqrt(2 / math.pi), _add(g, x, _mul(g, 0.044715, _mul(g, x, _mul(g, x, x)))))
        return _mul(g, _mul(g, 0.5, x), _add(g, 1.0, g.pointwise("tanh", inner)))
    return _mul(g, _mul(g, 0.5, x), _add(g, 1.0, g.pointwise("erf", _mul(g, x, math.sqrt(0.5)))))


@rule("log_sigmoid_forward")
def _log_sigmoid(g: Graph, x: Node) -> list[Node]:
    value = g.pointwise("neg", g.pointwise("softplus", g.pointwise("neg", x)))
    return [value, value]


# --- backward operations that appear when `step` differentiates inside itself -----------------------------------------
rule("tanh_backward")(lambda g, d, y: _mul(g, d, _add(g, 1.0, _mul(g, y, y), op="sub")))
rule("sigmoid_backward")(lambda g, d, y: _mul(g, _mul(g, d, y), _add(g, 1.0, y, op="sub")))


@rule("threshold_backward")
def _threshold_backward(g: Graph, d: Node, x: Node, threshold: float) -> Node:
    return g.pointwise("where", g.pointwise("le", x, g.constant(float(threshold))), g.constant(0.0), d)


# --- comparison and choice --------------------------------------------------------------------------------------------
rule("lt")(lambda g, a, b: g.pointwise("lt", _real(g, a), _real(g, b)))
rule("le")(lambda g, a, b: g.pointwise("le", _real(g, a), _real(g, b)))
rule("gt")(lambda g, a, b: g.pointwise("lt", _real(g, b), _real(g, a)))
rule("ge")(lambda g, a, b: g.pointwise("le", _real(g, b), _real(g, a)))
rule("eq")(lambda g, a, b: g.pointwise("eq", _real(g, a), _real(g, b)))
rule("ne")(lambda g, a, b: g.pointwise("not", g.pointwise("eq", _real(g, a), _real(g, b))))
rule("isnan")(lambda g, x: g.pointwise("not", g.pointwise("eq", _real(g, x), _real(g, x))))
rule("logical_and", "bitwise_and")(lambda g, a, b: g.pointwise("and", _bool(g, a), _bool(g, b)))
rule("logical_or", "bitwise_or")(lambda g, a, b: g.pointwise("or", _bool(g, a), _bool(g, b)))
rule("logical_not", "bitwise_not")(lambda g, a: g.pointwise("not", _bool(g, a)))


@rule("where")
def _where(g: Graph, condition: Node, yes: Any, no: Any) -> Value:
    yes, no = _node(g, yes), _node(g, no)
    if isinstance(yes, Pair) or isinstance(no, Pair):
        yes, no = _pair(g, yes), _pair(g, no)
        return Pair(
            g.pointwise("where", condition, yes.real, no.real), g.pointwise("where", condition, yes.imag, no.imag)
        )
    if not (yes.is_bool and no.is_bool):
        yes, no = _real(g, yes), _real(g, no)
    return g.pointwise("where", _bool(g, condition), yes, no)


rule("masked_fill")(lambda g, x, mask, value: _where(g, mask, value, x))


# --- views and copies -------------------------------------------------------------------------------------------------
def _each(x: Value, function: Callable[[Node], Node]) -> Value:
    return Pair(function(x.real), function(x.imag)) if isinstance(x, Pair) else function(x)


def _axis(axis: int, rank: int) -> int:
    return axis + rank if axis < 0 else axis


@rule("alias", "detach", "clone", "contiguous", "lift_fresh", "lift_fresh_copy", "resolve_conj", "resolve_neg")
def _same(g: Graph, x: Value, *_: Any, **__: Any) -> Value:
    return x


@rule("_to_copy")
def _to_copy(g: Graph, x: Value, dtype: Any = None, **_: Any) -> Value:
    if isinstance(x, Pair) or dtype is None or dtype.is_floating_point:
        return x if isinstance(x, Pair) else (x if dtype is None else _real(g, x))
    if dtype.is_complex:
        return _pair(g, x)
    if str(dtype) == "torch.bool":
        return _bool(g, x)
    raise TypeError(f"a conversion to {dtype}")


@rule("view", "_unsafe_view", "reshape", "_reshape_alias")
def _view(g: Graph, x: Value, shape: list[int], *_: Any) -> Value:
    known = math.prod(n for n in shape if n != -1)
    full = tuple(math.prod(x.shape) // known if n == -1 else n for n in shape)
    return _each(x, lambda node: g.reshape(node, full))


@rule("unsqueeze")
def _unsqueeze(g: Graph, x: Value, axis: int) -> Value:
    axis = _axis(axis, len(x.shape) + 1)
    return _each(x, lambda node: g.reshape(node, (*node.shape[:axis], 1, *node.shape[axis:])))


@rule("squeeze")
def _squeeze(g: Graph, x: Value, axes: Any = None) -> Value:
    rank = len(x.shape)
    wanted = range(rank) if axes is None else [_axis(a, rank) for a in (axes if isinstance(axes, list) else [axes])]
    shape = tuple(n for i, n in enumerate(x.shape) if not (i in wanted and n == 1))
    return _each(x, lambda node: g.reshape(node, shape))


@rule("permute")
def _permute(g: Graph, x: Value, order: list[int]) -> Value:
    return _each(x, lambda node: g.permute(node, tuple(_axis(i, len(order)) for i in order)))


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
    return _each(x, lambda node: g.expand(node, full))


@rule("slice")
def _slice(g: Graph, x: Value, axis: int = 0, start: int | None = None, end: int | None = None, step: int = 1) -> Value:
    axis, size = _axis(axis, len(x.shape)), x.shape[_axis(axis, len(x.shape))]
    positions = range(size)[slice(start, end, step)]
    if step == 1:
        return _each(x, lambda node: _narrow(g, node, axis, positions.start, len(positions)))
    return _each(x, lambda node: g.concat([_narrow(g, node, axis, i, 1) for i in positions], axis))


def _narrow(g: Graph, x: Node, axis: int, start: int, size: int) -> Node:
    starts = tuple(start if i == axis else 0 for i in range(len(x.shape)))
    return g.slice(x, starts, tuple(size if i == axis else n for i, n in enumerate(x.shape)))


@rule("select")
def _select(g: Graph, x: Value, axis: int, index: int) -> Value:
    axis = _axis(axis, len(x.shape))
    index = _axis(index, x.shape[axis])
    shape = x.shape[:axis] + x.shape[axis + 1 :]
    return _each(x, lambda node: g.reshape(_narrow(g, node, axis, index, 1), shape))


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
        pairs = [_pair(g, part) for part in parts]
        return Pair(g.concat([p.real for p in pairs], axis), g.concat([p.imag for p in pairs], axis))
    return g.concat([_real(g, part) for part in parts], axis)


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


rule("zeros_like", "new_zeros")(_filled(0.0))
rule("ones_like", "new_ones")(_filled(1.0))
LOWERING["new_zeros"] = lambda g, x, shape, **_: g.expand(g.constant(0.0), tuple(shape))
LOWERING["new_ones"] = lambda g, x, shape, **_: g.expand(g.constant(1.0), tuple(shape))
rule("full_like")(lambda g, x, value, **_: g.expand(g.constant(float(value)), x.shape))
rule("new_full")(lambda g, x, shape, value, **_: g.expand(g.constant(float(value)), tuple(shape)))


# --- reductions and products ------------------------------------------------------------------------------------------
def _axes(axes: Any, rank: int) -> list[int]:
    if axes is None or axes == []:
        return list(range(rank))
    return [_axis(a, rank) for a in (axes if isinstance(axes, list) else [axes])]


def _reduce(g: Graph, op: str, x: Node, axes: Any, keepdim: bool) -> Node:
    wanted = _axes(axes, len(x.shape))
    result = g.reduce(op, x, wanted)
    return g.reshape(result, tuple(1 if i in wanted else n for i, n in enumerate(x.shape))) if keepdim else result


@rule("sum")
def _sum(g: Graph, x: Value, axes: Any = None, keepdim: bool = False, **_: Any) -> Value:
    return _each(x, lambda node: _reduce(g, "sum", _real(g, node), axes, keepdim))


@rule("mean")
def _mean(g: Graph, x: Node, axes: Any = None, keepdim: bool = False, **_: Any) -> Node:
    count = math.prod(x.shape[i] for i in _axes(axes, len(x.shape)))
    return g.pointwise("div", _reduce(g, "sum", x, axes, keepdim), g.constant(float(count)))


@rule("amax")
def _amax(g: Graph, x: Node, axes: Any = None, keepdim: bool = False) -> Node:
    return _reduce(g, "max", x, axes, keepdim)


@rule("var_mean")
def _var_mean(g: Graph, x: Node, axes: Any = None, correction: float = 1, keepdim: bool = False) -> list[Node]:
    mean = _mean(g, x, axes, True)
    centred = g.pointwise("sub", x, mean)
    count = math.prod(x.shape[i] for i in _axes(axes, len(x.shape)))
    square = _reduce(g, "sum", g.pointwise("mul", centred, centred), axes, keepdim)
    return [g.pointwise("div", square, g.constant(count - correction)), _mean(g, x, axes, keepdim)]


rule("var")(lambda g, *args, **kwargs: _var_mean(g, *args, **kwargs)[0])


@rule("native_layer_norm")
def _layer_norm(g: Graph, x: Node, shape: list[int], weight: Node | None, bias: Node | None, eps: float) -> list[Node]:
    axes = list(range(-len(shape), 0))
    variance, mean = _var_mean(g, x, axes, 0, True)
    scale = g.pointwise("div", g.constant(1.0), g.pointwise("sqrt", _add(g, variance, eps)))
    y = _mul(g, _add(g, x, mean, op="sub"), scale)
    y = y if weight is None else _mul(g, y, weight)
    return [y if bias is None else _add(g, y, bias), mean, scale]


@rule("_softmax")
def _softmax(g: Graph, x: Node, axis: int, *_: Any) -> Node:
    exp = g.pointwise("exp", g.pointwise("sub", x, _reduce(g, "max", x, axis, True)))
    return g.pointwise("div", exp, _reduce(g, "sum", exp, axis, True))


@rule("mv")
def _mv(g: Graph, a: Value, b: Value) -> Value:
    if isinstance(a, Pair) or isinstance(b, Pair):
        a, b = _pair(g, a), _pair(g, b)
        real = g.pointwise("sub", g.matvec(a.real, b.real), g.matvec(a.imag, b.imag))
        return Pair(real, g.pointwise("add", g.matvec(a.real, b.imag), g.matvec(a.imag, b.real)))
    return g.matvec(a, b)


@rule("addmv")
def _addmv(g: Graph, c: Value, a: Value, b: Value, beta: float = 1, alpha: float = 1) -> Value:
    return _add(g, _mul(g, c, beta) if beta != 1 else c, _mul(g, _mv(g, a, b), alpha) if alpha != 1 else _mv(g, a, b))


@rule("dot", "vdot")
def _dot(g: Graph, a: Value, b: Value) -> Value:
    return _sum(g, _mul(g, a, b))


LOWERING["vdot"] = lambda g, a, b: _dot(g, _conj(g, a), b)


@rule("mm")
def _mm(g: Graph, a: Node, b: Node) -> Node:
    (m, k), n = a.shape, b.shape[1]
    if n == 1:
        return g.reshape(g.matvec(a, g.reshape(b, (k,))), (m, 1))
    if m == 1:
        return g.reshape(g.matvec(g.permute(b, (1, 0)), g.reshape(a, (k,))), (1, n))
    return g.reduce("sum", g.pointwise("mul", g.reshape(a, (m, k, 1)), g.reshape(b, (1, k, n))), (1,))


@rule("addmm")
def _addmm(g: Graph, c: Node, a: Node, b: Node, beta: float = 1, alpha: float = 1) -> Value:
    product = _mm(g, a, b)
    return _add(g, _mul(g, c, beta) if beta != 1 else c, _mul(g, product, alpha) if alpha != 1 else product)


@rule("bmm")
def _bmm(g: Graph, a: Node, b: Node) -> Node:
    (batch, m, k), n = a.shape, b.shape[2]
    if batch == 1:
        return g.reshape(_mm(g, g.reshape(a, (m, k)), g.reshape(b, (k, n))), (1, m, n))
    wide = g.pointwise("mul", g.reshape(a, (batch, m, k, 1)), g.reshape(b, (batch, 1, k, n)))
    return g.reduce("sum", wide, (2,))


# --- complex ----------------------------------------------------------------------------------------------------------
@rule("_conj", "conj_physical", "_conj_physical")
def _conj(g: Graph, x: Value) -> Value:
    return Pair(x.real, g.pointwise("neg", x.imag)) if isinstance(x, Pair) else x


rule("complex")(lambda g, a, b: Pair(a, b))
rule("polar")(
    lambda g, size, angle: Pair(
        g.pointwise("mul", size, g.pointwise("cos", angle)), g.pointwise("mul", size, g.pointwise("sin", angle))
    )
)
rule("view_as_real")(lambda g, x: _stack(g, [x.real, x.imag], -1))
rule("view_as_complex")(lambda g, x: Pair(_select(g, x, -1, 0), _select(g, x, -1, 1)))
