"""From `step`, as plain PyTorch, to a graph: run it once on one lane and write down every operation it does."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from recurra.compiler.frontend.bounds import largest
from recurra.compiler.frontend.graph import Graph, Node
from recurra.compiler.frontend.positions import Positions
from recurra.compiler.frontend.table import BY_NUMBER, LOWERING
from recurra.compiler.frontend.values import Pair, Value
from recurra.compiler.frontend.writing import seen, share_memory, written
from recurra.errors import RecurraError

COUNTING = {"add", "sub", "rsub", "mul", "pow", "sum", "prod", "cumsum", "cumprod", "mm", "mv", "bmm", "dot", "addmm"}
"""Operations of which whole numbers may become larger than those that they are made of."""
LIBRARY = ("torch/", "recurra/compiler/", "recurra/recurrence.py", "recurra/check", "recurra/engines/")


class Untraceable(RecurraError):
    """`step` does something that has no graph; the message says what and where."""


@dataclass(frozen=True)
class Traced:
    """A step as a graph."""

    graph: Graph
    inputs: dict[str, Value]
    """Every leaf by name: states, step inputs, weights."""
    states: dict[str, Value]
    """The new states."""
    y: Value | tuple[Value, ...]
    lines: dict[Node, str]
    """Where in the user's file each node was written, "file:line"."""


def trace(
    step: Callable[..., tuple[tuple[Tensor, ...], Tensor]],
    states: Mapping[str, Tensor],
    inputs: Mapping[str, Tensor],
    weights: Mapping[str, Tensor],
) -> Traced:
    """Run `step(states, inputs, weights)` once and record it.

    Args:
        step: takes a tuple of states, a dict of inputs and a dict of weights; returns (new states, output). The output
            may be a tuple.
        states, inputs, weights: one lane's worth of example values, by name.

    Raises:
        Untraceable: an operation without a rule, or control flow that depends on values.
    """
    recorder = Recorder()
    leaves: dict[str, Value] = {}
    examples: list[dict[str, Tensor]] = []
    for kind, group in (("state", states), ("input", inputs), ("weight", weights)):
        examples.append({name: value.detach().clone() for name, value in group.items()})
        for name, value in examples[-1].items():
            leaves[f"{kind}.{name}"] = recorder.leaf(f"{kind}.{name}", value)
    with Positions(lambda said: Untraceable(said + _where())), recorder:
        try:
            after, y = step(tuple(examples[0].values()), examples[1], examples[2])
        except Exception as error:
            if type(error).__module__.startswith("torch._dynamo") or "HigherOrderOperator" in str(error):
                raise Untraceable("step uses torch.cond or the like: decide by torch.where") from error
            raise
    if recorder.refusal is not None:
        raise Untraceable(recorder.refusal)
    return Traced(
        recorder.graph,
        leaves,
        {name: recorder.value(tensor) for name, tensor in zip(states, after, strict=True)},
        tuple(map(recorder.value, y)) if isinstance(y, tuple) else recorder.value(y),
        recorder.lines,
    )


class Recorder(TorchDispatchMode):
    """Sees every primitive operation below autograd and torch.func, and adds it to a graph."""

    def __init__(self) -> None:
        super().__init__()
        self.graph = Graph()
        self.lines: dict[Node, str] = {}
        self._constants: list[Tensor] = []
        # Leaves that are whole numbers, with their size: none, since who reads them is refused for that.
        self._whole: dict[str, float] = {}
        # Tensors are kept alive, so that an id stands for one tensor during the whole trace.
        self._values: dict[int, tuple[Tensor, Value]] = {}
        self._real: set[torch.dtype] = set()
        # Raised in the end: should the step not keep to the contract, that is what has to be said.
        self.refusal: str | None = None

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Not wrapping the dispatch for torch.compile saves the second that importing it takes."""
        return False

    def leaf(self, name: str, tensor: Tensor) -> Value:
        """Register an input."""
        shape = tuple(tensor.shape)
        value: Value
        if tensor.is_complex():
            value = Pair(self.graph.input(f"{name}.real", shape), self.graph.input(f"{name}.imag", shape))
        else:
            value = self.graph.input(name, shape, tensor.dtype == torch.bool)
        self._values[id(tensor)] = (tensor, value)
        self._real.add(tensor.dtype.to_real())
        if _is_whole(tensor):
            self._whole[name] = 0.0
        return value

    @property
    def _exact(self) -> float:
        """Up to where the type of the step holds all whole numbers."""
        return 2.0**53 if torch.float64 in self._real else 2.0**24

    def computed(self, tensor: Tensor) -> bool:
        """Whether the value of a tensor depends on what the step reads."""
        return id(tensor) in self._values

    def value(self, tensor: Tensor) -> Value:
        """The node of a tensor the step computed, or a constant it made."""
        if id(tensor) in self._values:
            return self._values[id(tensor)][1]
        return self._constant(tensor)

    def _constant(self, tensor: Tensor) -> Value:
        if tensor.is_complex():
            return Pair(self._constant(tensor.real), self._constant(tensor.imag))
        if tensor.numel() == 0:
            raise Untraceable(f"step makes an empty tensor of shape {list(tensor.shape)}{_where()}")
        flat = [self.graph.constant(float(v)) for v in tensor.flatten().tolist()]
        if len(set(flat)) == 1:
            node = self.graph.expand(flat[0], tuple(tensor.shape))
        else:
            parts = [self.graph.reshape(v, (1,)) for v in flat]
            node = self.graph.reshape(self.graph.concat(parts, 0), tuple(tensor.shape))
        if tensor.dtype == torch.bool:
            return self.graph.pointwise("not", self.graph.pointwise("eq", node, self.graph.constant(0.0)))
        return node

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if _draws(func, args, kwargs):
            raise Untraceable(f"step draws random numbers{_where()}: draw them in inputs, for all time steps")
        name = func._overloadpacket._qualified_op_name.removeprefix("aten::")
        tensors = [a for a in _flat(args) if isinstance(a, Tensor)]
        if not any(id(a) in self._values for a in tensors):
            result = func(*args, **kwargs)  # a constant: its value is what counts
            self._constants.extend(t for t in _flat(result) if isinstance(t, Tensor))
            return result
        if torch.Tag.inplace_view in func.tags:  # squeeze_ and its like change no number
            name = name.removesuffix("_")
        elif func._schema.is_mutable and name.endswith("_"):
            self._write(func, name.removesuffix("_"), args, kwargs)
            return args[0]
        if name == "as_strided":
            result = func(*args, **kwargs)
            self._values[id(result)] = result, seen(self.graph, self.value(args[0]), args[0], result)
            return result
        if name in LOWERING:
            result = func(*args, **kwargs)
            self._record(name, args, kwargs, result)
            return result
        return self._decomposed(func, name, args, kwargs)

    def _decomposed(self, func: Any, name: str, args: tuple, kwargs: dict) -> Any:
        with self:
            decomposed = _decompose(func, args, kwargs)
        if decomposed is NotImplemented:
            raise Untraceable(_refusal(name))
        return decomposed

    def _write(self, func: Any, name: str, args: tuple, kwargs: dict) -> None:
        """An operation in place, as the same operation that gives a new tensor, and then a copy."""
        target = args[0]
        plain = getattr(torch.ops.aten, name, None)
        if name == "copy":
            source = args[1]
        elif plain is None or func._overloadname not in plain.overloads():
            self._decomposed(func, name, args, kwargs)
            return
        else:
            with self:
                source = getattr(plain, func._overloadname)(*args, **kwargs)
        known = [known for known, _ in self._values.values()] + self._constants
        others = [(other, self.value(other)) for other in known if share_memory(other, target)]
        try:
            changed = list(written(self.graph, target, self.value(source), others))
        except ValueError as error:
            raise Untraceable(f"step uses {name}_ in a way that is not supported ({error}){_where()}") from error
        target.copy_(source)
        self._values.update({id(tensor): (tensor, value) for tensor, value in changed})

    def _record(self, name: str, args: tuple, kwargs: dict, result: Any) -> None:
        before = len(self.graph._known)
        by_number = name in BY_NUMBER
        try:
            lowered = LOWERING[name](self.graph, *_replace(args, self, by_number), **_replace(kwargs, self, by_number))
        except (ValueError, TypeError, KeyError) as error:
            raise Untraceable(f"step uses {name} in a way that is not supported ({error}){_where()}") from error
        results = [t for t in (result if isinstance(result, tuple | list) else [result]) if t is not None]
        given = {a.dtype.to_real() for a in _flat((args, kwargs)) if isinstance(a, Tensor) and id(a) in self._values}
        for tensor in results:
            floating = tensor.is_floating_point() or tensor.is_complex()
            if floating and tensor.dtype.to_real() not in self._real and given & self._real - {torch.bool}:
                own = ", ".join(str(dtype)[6:] for dtype in self._real if dtype.is_floating_point)
                self.refusal = f"step computes in {str(tensor.dtype)[6:]}{_where()}, where all else is {own}"
        lowered = lowered if isinstance(lowered, list) else [lowered]
        for tensor, value in zip(results, lowered, strict=True):
            self._values[id(tensor)] = (tensor, value)
            if (
                name in COUNTING
                and isinstance(value, Node)
                and _is_whole(tensor)
                and largest(value, self._whole) > self._exact
            ):
                raise Untraceable(f"step may count beyond what its type holds exactly{_where()}: use a float")
        if len(self.graph._known) > before:
            place = _user_line()
            for node in list(self.graph._known.values())[before:]:
                self.lines[node] = place


def _decompose(func: Any, args: tuple, kwargs: dict) -> Any:
    """The operation in terms of simpler ones, by PyTorch's own tables."""
    result = func.decompose(*args, **kwargs)
    if result is not NotImplemented:
        return result
    from torch._decomp import decomposition_table

    rule = decomposition_table.get(func)
    return NotImplemented if rule is None else rule(*args, **kwargs)


def _draws(func: Any, args: tuple, kwargs: dict) -> bool:
    """Whether an operation draws random numbers; attention does if it drops something."""
    if func is torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default:
        return (args[3] if len(args) > 3 else kwargs.get("dropout_p", 0.0)) != 0
    return torch.Tag.nondeterministic_seeded in func.tags


def _is_whole(tensor: Tensor) -> bool:
    return not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype is torch.bool)


def _refusal(name: str) -> str:
    if name in ("_local_scalar_dense", "item", "is_nonzero", "equal", "nonzero"):
        return f"step decides by the value of a tensor (if, while, int(), .item()){_where()}: use torch.where"
    return f"step uses {name}, which has no rule{_where()}"


def _where() -> str:
    line = _user_line()
    return f" at {line}" if line else ""


def _user_line() -> str:
    """The innermost line outside PyTorch and this library's machinery, as "file:line"."""
    for frame, line in traceback.walk_stack(sys._getframe()):
        name = frame.f_code.co_filename.replace("\\", "/")
        if not any(part in name for part in LIBRARY) and not name.startswith("<"):
            return f"{name}:{line}"
    return ""


def _flat(value: Any) -> list[Any]:
    if isinstance(value, tuple | list):
        return [leaf for item in value for leaf in _flat(item)]
    return [value]


def _replace(value: Any, recorder: Recorder, by_number: bool) -> Any:
    """Arguments with every tensor replaced by its node; with `by_number` but for whole numbers that are known now."""
    if isinstance(value, Tensor):
        known = by_number and not (value.is_floating_point() or value.is_complex() or recorder.computed(value))
        return value if known else recorder.value(value)
    if isinstance(value, tuple | list):
        return [_replace(item, recorder, by_number) for item in value]
    if isinstance(value, dict):
        return {name: _replace(item, recorder, by_number) for name, item in value.items()}
    return value
