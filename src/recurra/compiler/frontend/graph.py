"""The graph of one time step of one lane: a closed list of operations, each verified when it is built.

A node is immutable and built once: asking for the same operation on the same arguments gives the same node, so common
sub-expressions are shared by construction. Shapes are those of one lane of one sequence. Values are real or boolean;
a complex value is a pair of real ones.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

MARKS = {"stop", "slope", "custom"}
"""What passes a value on and says something of its gradient; no code is generated for it. "stop" has none; "slope" of
(value, x, s) has by x s more than the value has; "custom" has one of its own."""
K = TypeVar("K", bound=Hashable)
UNARY = {"neg", "exp", "exp2", "log", "log1p", "expm1", "sqrt", "sigmoid", "tanh", "erf", "sin", "cos", "abs", "sign",
         "softplus", "floor", "copy", "ceil", "trunc", "round", "log2", "erfc", "tan", "asin", "acos", "atan", "sinh",
         "cosh", "asinh", "acosh", "atanh", "stop"}  # fmt: skip
BINARY = {"add", "sub", "mul", "div", "maximum", "minimum", "pow", "fmod", "atan2", "hypot"}
COMPARE = {"lt", "le", "eq"}
LOGIC = {"and", "or", "not"}
POINTWISE = UNARY | BINARY | COMPARE | LOGIC | {"where", "slope"}
VIEWS = {"reshape", "permute", "expand", "slice"}
REDUCTIONS = {"sum", "max"}
LEAVES = {"input", "constant", "table"}
"""Operations, besides leaves, "matvec" (a matrix by a vector) and "assemble" (parts put at
given offsets into a block of zeros). "softplus" is log(1 + exp(x)); "copy" is the identity; "round" goes to even."""


@dataclass(frozen=True)
class Numbers:
    """Numbers known now; the same text means the same numbers."""

    text: str
    values: tuple[float, ...] = field(compare=False, repr=False)

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, eq=False)
class Node:
    """One value: an operation, its arguments, its shape, and whatever else the operation needs."""

    op: str
    args: tuple[Node, ...]
    shape: tuple[int, ...]
    attr: Any = None
    is_bool: bool = False
    number: int = 0

    @property
    def size(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


class Graph:
    """Builds nodes. Every method checks shapes and raises ValueError if they do not fit."""

    def __init__(self) -> None:
        self._known: dict[tuple, Node] = {}

    def _node(self, op: str, args: tuple[Node, ...], shape: Iterable[int], attr: Any = None, is_bool: bool = False):
        shape = tuple(shape)
        key = (op, tuple(a.number for a in args), shape, attr, is_bool)
        if key not in self._known:
            self._known[key] = Node(op, args, shape, attr, is_bool, len(self._known))
        return self._known[key]

    def input(self, name: str, shape: tuple[int, ...], is_bool: bool = False) -> Node:
        """A value that comes from outside."""
        return self._node("input", (), shape, name, is_bool)

    def constant(self, value: float) -> Node:
        """A number known now, without axes."""
        # The text tells -0.0 from 0.0 and one NaN from none, which == does not.
        return self._node("constant", (), (), repr(float(value)))

    def table(self, values: Iterable[float], shape: tuple[int, ...]) -> Node:
        """Numbers known now, in a shape."""
        numbers = tuple(map(float, values))
        texts = tuple(map(repr, numbers))
        if len(set(texts)) == 1:
            return self.expand(self.constant(numbers[0]), shape)
        return self._node("table", (), shape, Numbers(f"{len(numbers)} numbers {digest(*texts)}", numbers))

    def value(self, node: Node) -> float | None:
        """The number a node is known to be everywhere, or None."""
        while node.op in ("expand", "reshape"):
            node = node.args[0]
        return float(node.attr) if node.op == "constant" else None

    def pointwise(self, op: str, *args: Node) -> Node:
        """An operation on every element, with numpy's broadcasting."""
        if op not in POINTWISE:
            raise ValueError(f"{op!r} is not a pointwise operation")
        simpler = self._simplify(op, args)
        if simpler is not None:
            return simpler
        shape = broadcast_shape(*(a.shape for a in args))
        args = tuple(self.reshape(a, (1,) * (len(shape) - len(a.shape)) + a.shape) for a in args)
        is_bool = op in COMPARE | LOGIC or (op in ("where", "copy") and args[-1].is_bool)
        return self._node(op, args, shape, None, is_bool)

    def given(self, value: Node, *slopes: tuple[Node, Node]) -> Node:
        """`value` with derivatives of its own: by each x of (x, slope) what is given with it, by all else none."""
        value = self.pointwise("stop", value)
        for x, slope in slopes:
            value = self.pointwise("slope", value, x, slope)
        return value

    def _simplify(self, op: str, args: tuple[Node, ...]) -> Node | None:
        """Identities that hold for every float, NaN and infinities included."""
        known = [self.value(a) for a in args]
        shape = broadcast_shape(*(a.shape for a in args))
        if op in ("mul", "div") and known[-1] == 1.0:
            return self.expand(args[0], shape)
        if op == "mul" and known[0] == 1.0:
            return self.expand(args[1], shape)
        if op == "sub" and known[1] == 0.0 and math.copysign(1, known[1]) > 0:
            return self.expand(args[0], shape)
        if op == "mul" and -1.0 in known:
            return self.pointwise("neg", self.expand(args[1 - known.index(-1.0)], shape))
        if op == "pow" and known[1] is not None:
            return self._power(self.expand(args[0], shape), known[1])
        if op == "neg" and args[0].op == "neg":
            return args[0].args[0]
        if op == "not" and args[0].op == "not":
            return args[0].args[0]
        if op == "stop" and (args[0].op == "stop" or args[0].is_bool or known[0] is not None):
            return args[0]
        if op == "where" and args[1] is args[2]:
            return self.expand(args[1], shape)
        return None

    def _power(self, x: Node, exponent: float) -> Node | None:
        """Powers that are cheaper as something else."""
        one = self.constant(1.0)
        ways: dict[float, Callable[[], Node]] = {
            0.0: lambda: self.expand(one, x.shape),
            1.0: lambda: x,
            2.0: lambda: self.pointwise("mul", x, x),
            3.0: lambda: self.pointwise("mul", self.pointwise("mul", x, x), x),
            0.5: lambda: self.pointwise("sqrt", x),
            -0.5: lambda: self.pointwise("div", one, self.pointwise("sqrt", x)),
            -1.0: lambda: self.pointwise("div", one, x),
            -2.0: lambda: self.pointwise("div", one, self.pointwise("mul", x, x)),
        }
        return ways[exponent]() if exponent in ways else None

    def reshape(self, x: Node, shape: tuple[int, ...]) -> Node:
        """The same elements in the same order under another shape."""
        if math.prod(shape) != x.size:
            raise ValueError(f"cannot reshape {x.shape} to {shape}")
        while x.op == "reshape":
            x = x.args[0]
        return x if x.shape == tuple(shape) else self._node("reshape", (x,), shape, None, x.is_bool)

    def permute(self, x: Node, order: tuple[int, ...]) -> Node:
        """Axes in another order."""
        if sorted(order) != list(range(len(x.shape))):
            raise ValueError(f"cannot permute {x.shape} by {order}")
        if tuple(order) == tuple(range(len(order))):
            return x
        if x.op == "permute":
            return self.permute(x.args[0], tuple(x.attr[i] for i in order))
        return self._node("permute", (x,), (x.shape[i] for i in order), tuple(order), x.is_bool)

    def expand(self, x: Node, shape: tuple[int, ...]) -> Node:
        """Broadcast to `shape` by numpy's rule."""
        shape = tuple(shape)
        if broadcast_shape(x.shape, shape) != shape:
            raise ValueError(f"cannot expand {x.shape} to {shape}")
        x = self.reshape(x, (1,) * (len(shape) - len(x.shape)) + x.shape)
        return x if x.shape == shape else self._node("expand", (x,), shape, None, x.is_bool)

    def slice(self, x: Node, starts: tuple[int, ...], sizes: tuple[int, ...]) -> Node:
        """A block: `sizes[i]` elements from `starts[i]` on, along every axis."""
        if any(a < 0 or a + n > m for a, n, m in zip(starts, sizes, x.shape, strict=True)):
            raise ValueError(f"slice {starts} {sizes} leaves {x.shape}")
        if tuple(sizes) == x.shape:
            return x
        if x.op == "assemble":
            for part, at in zip(x.args, x.attr, strict=True):
                if at == tuple(starts) and part.shape == tuple(sizes):
                    return part
        return self._node("slice", (x,), sizes, tuple(starts), x.is_bool)

    def assemble(self, parts: Iterable[Node], offsets: Iterable[tuple[int, ...]], shape: tuple[int, ...]) -> Node:
        """Zeros of `shape` with each part written at its offset. Parts must not overlap."""
        parts, offsets = tuple(parts), tuple(map(tuple, offsets))
        if len(parts) == 1 and parts[0].shape == tuple(shape):
            return parts[0]
        return self._node("assemble", parts, shape, offsets)

    def concat(self, parts: list[Node], axis: int) -> Node:
        """Parts one after another along `axis`; empty ones leave no trace."""
        parts = [part for part in parts if part.shape[axis]] or parts[:1]
        offsets, at = [], 0
        for part in parts:
            offsets.append(tuple(at if i == axis else 0 for i in range(len(part.shape))))
            at += part.shape[axis]
        shape = tuple(at if i == axis else n for i, n in enumerate(parts[0].shape))
        return self.assemble(parts, offsets, shape)

    def reduce(self, op: str, x: Node, axes: Iterable[int]) -> Node:
        """Sum or maximum over `axes`, which disappear."""
        axes = tuple(sorted(axis % len(x.shape) for axis in axes)) if x.shape else ()
        if op not in REDUCTIONS or x.is_bool:
            raise ValueError(f"cannot reduce by {op!r}")
        kept = tuple(n for i, n in enumerate(x.shape) if i not in axes)
        if all(x.shape[i] == 1 for i in axes):
            return self.reshape(x, kept)
        return self._node(op, (x,), kept, axes)

    def matvec(self, matrix: Node, vector: Node) -> Node:
        """[m, k] by [k] to [m]."""
        if len(matrix.shape) != 2 or vector.shape != matrix.shape[1:]:
            raise ValueError(f"cannot multiply {matrix.shape} by {vector.shape}")
        return self._node("matvec", (matrix, vector), matrix.shape[:1])

    def custom(self, value: Node, gradients: list[tuple[Node, Node]], seed: Node) -> Node:
        """`value` with a gradient of its own: for each (argument, gradient) what `seed`, the gradient of the value,
        becomes for that argument."""
        arguments, pulled = zip(*gradients, strict=True) if gradients else ((), ())
        return self._node("custom", (value, *arguments), value.shape, (seed, pulled))

    def rebuild(self, node: Node, args: tuple[Node, ...]) -> Node:
        """`node` with other arguments of the same shapes."""
        return node if args == node.args else self._node(node.op, args, node.shape, node.attr, node.is_bool)

    def sum_to(self, x: Node, shape: tuple[int, ...]) -> Node:
        """Undo a broadcast: sum over the axes along which `shape` was repeated."""
        if x.shape == shape:
            return x
        padded = (1,) * (len(x.shape) - len(shape)) + shape
        axes = [i for i, (n, m) in enumerate(zip(x.shape, padded, strict=True)) if m == 1 and n != 1]
        return self.reshape(self.reduce("sum", x, axes), shape)


def broadcast_shape(*shapes: tuple[int, ...]) -> tuple[int, ...]:
    """numpy's rule. Raises ValueError if the shapes do not fit together."""
    rank = max(map(len, shapes))
    result = [1] * rank
    for shape in shapes:
        for i, n in enumerate(shape, rank - len(shape)):
            if n != 1 and result[i] not in (1, n):
                raise ValueError(f"shapes {', '.join(map(str, shapes))} do not fit together")
            result[i] = max(result[i], n) if n != 0 else 0
    return tuple(result)


def topological(outputs: Iterable[Node]) -> list[Node]:
    """Every node the outputs need, arguments before users; what is not needed is left out."""
    order: dict[Node, None] = {}
    stack = [(node, False) for node in reversed(list(outputs))]
    while stack:
        node, ready = stack.pop()
        if node in order:
            continue
        if ready:
            order[node] = None
            continue
        stack.append((node, True))
        stack.extend((arg, False) for arg in reversed(node.args))
    return list(order)


def replaced(graph: Graph, outputs: Mapping[K, Node], by: Mapping[Node, Node]) -> dict[K, Node]:
    """`outputs` computed with other nodes in place of some."""
    made: dict[Node, Node] = {}
    for node in topological(outputs.values()):
        made[node] = by.get(node) or graph.rebuild(node, tuple(made[arg] for arg in node.args))
    return {name: made[node] for name, node in outputs.items()}


def unmarked(graph: Graph, outputs: Mapping[str, Node]) -> dict[str, Node]:
    """`outputs` without what only says something of gradients."""
    made: dict[Node, Node] = {}
    for node in topological(outputs.values()):
        args = tuple(made[arg] for arg in node.args)
        made[node] = args[0] if node.op in MARKS else graph.rebuild(node, args)
    return {name: made[node] for name, node in outputs.items()}


def listing(outputs: Mapping[str, Node]) -> str:
    """The graph as equations, one line per node. The same graph always gives the same text."""
    names: dict[Node, str] = {}
    lines = []
    for node in topological(outputs.values()):
        if node.op == "input":
            names[node] = str(node.attr)
        elif node.op == "constant":
            names[node] = format(float(node.attr), ".17g")
        else:
            names[node] = f"v{len(lines)}"
            extra = "" if node.attr is None else f" {node.attr}"
            shape = "" if not node.shape else f"  # {list(node.shape)}"
            lines.append(f"{names[node]} = {node.op}({', '.join(names[a] for a in node.args)}){extra}{shape}")
    lines += [f"{name} <- {names[node]}  # {list(node.shape)}" for name, node in outputs.items()]
    return "\n".join(lines) + "\n"


def digest(*texts: str) -> str:
    """A short stable name for texts that together say what a kernel does."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:24]
