"""What sees every operation of a step while it runs on example values, and writes it down."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from recurra.compiler.frontend.bounds import Counting, largest
from recurra.compiler.frontend.custom import own_gradient
from recurra.compiler.frontend.graph import Graph, Node
from recurra.compiler.frontend.leaving import Leaving
from recurra.compiler.frontend.lowering import boolean
from recurra.compiler.frontend.prepared import Operation, Origin, Prepared, Result, Weight, origins, prepare, replaced
from recurra.compiler.frontend.primitives import decompose, draws, writes_to
from recurra.compiler.frontend.refusal import RANDOM, Untraceable, refusal, user_line, where
from recurra.compiler.frontend.table import BY_NUMBER, LOWERING
from recurra.compiler.frontend.values import Pair, Value
from recurra.compiler.frontend.writing import seen, share_memory, written

SPELT = 64
"""Numbers up to which a constant is part of the graph; a larger one is a leaf that holds data."""
WHOLE = {"state": 1 / 16, "input": 1 / 256}
"""Up to which part of what floating point holds exactly whole numbers may go, so that a step can make larger ones."""
COUNTING = {"add", "sub", "rsub", "mul", "pow", "sum", "prod", "cumsum", "cumprod", "mm", "mv", "bmm", "dot", "addmm"}
"""Operations of which whole numbers may become larger than those that they are made of."""


class Recorder(TorchDispatchMode):
    """Sees every primitive operation below autograd and torch.func, and adds it to a graph.

    A tensor is one of three kinds: it depends on the state or the inputs of a time step, and has a value in the graph;
    or on weights alone, and is computed once before the loop (a view of a weight is both); or on nothing, a constant.
    """

    def __init__(self, met: Mapping[str, Tensor], trains: bool, differentiates: bool = True) -> None:
        super().__init__()
        self._trains, self._differentiates = trains, trains and differentiates
        self.graph = Graph()
        self.lines: dict[Node, str] = {}
        self.leaves: dict[str, Value] = {}
        # Raised in the end: should the step not keep to the contract, that is what has to be said.
        self.refusal: str | None = None
        self.custom = False
        # Tensors are kept alive, so that an id stands for one tensor during the whole trace.
        self._values: dict[int, tuple[Tensor, Value]] = {}
        self._origins: dict[int, tuple[Tensor, Origin]] = {}
        self._operations: list[Operation] = []
        self._moving: set[int] = set()
        # Leaves that are whole numbers, with the part of what floating point holds exactly that they may come to.
        self._whole: dict[str, float] = {}
        self._widest = math.inf
        self._prepared: dict[str, Origin] = {}
        self._real: set[torch.dtype] = set()
        self._met = {id(tensor): (name, tensor) for name, tensor in met.items()}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Not wrapping the dispatch for torch.compile saves the second that importing it takes."""
        return False

    # --- leaves ---------------------------------------------------------------------------------------------------
    def example(self, name: str, value: Tensor, kind: str) -> Tensor:
        """A tensor to run the step with, in place of `value`: a leaf, which takes gradients as the real one does."""
        own = value.detach().clone()
        if self._differentiates and (own.is_floating_point() or own.is_complex()):
            own = own.requires_grad_().clone()
        self._leaf(name, own)
        if kind == "weight":
            self._weight(name.removeprefix("weight."), own)
        else:
            self._moving.add(id(own))
        return own

    def _weight(self, name: str, tensor: Tensor) -> None:
        self._origins[id(tensor)] = tensor, Weight(name)
        if not self._trains:
            self._moving.add(id(tensor))

    def _example_gradient(self, name: str, like: Tensor) -> Tensor:
        own = torch.full(like.shape, 0.5, dtype=like.dtype).requires_grad_()
        self._origins.pop(id(own), None)
        self._values[id(own)] = own, self.graph.input(name, tuple(like.shape))
        self._moving.add(id(own))
        return own

    def _leaf(self, name: str, tensor: Tensor) -> Value:
        shape = tuple(tensor.shape)
        value: Value
        if tensor.is_complex():
            value = Pair(self.graph.input(f"{name}.real", shape), self.graph.input(f"{name}.imag", shape))
        else:
            # What the state holds kernels write as they compute, flags as 0 and 1.
            flag = tensor.dtype == torch.bool
            value = self.graph.input(name, shape, flag and not name.startswith("state."))
        self.leaves[name] = value
        if isinstance(value, Node) and flag:
            value = boolean(self.graph, value)
        elif _is_whole(tensor) and not name.startswith("weight."):
            self._whole[name] = WHOLE[name.partition(".")[0]]
            self._widest = min(self._widest, torch.iinfo(tensor.dtype).max)
            value = self.graph.pointwise("stop", value)  # no gradient
        elif not _is_whole(tensor):
            self._real.add(tensor.dtype.to_real())
        self._values[id(tensor)] = tensor, value
        return value

    @property
    def _exact(self) -> float:
        """Up to where the types of the step hold all whole numbers."""
        return min(2.0**53 if torch.float64 in self._real else 2.0**24, self._widest)

    def _sizes(self) -> dict[str, float]:
        """Of the leaves that are whole numbers."""
        return {name: part * self._exact for name, part in self._whole.items()}

    def counting(self, states: Mapping[str, Tensor]) -> Counting | None:
        """Up to where whole numbers may go, given the new states; None where there are none.

        Raises Untraceable if they may grow by a factor at each time step.
        """
        if not self._whole:
            return None
        new = {name: self.value(t) for name, t in states.items() if _is_whole(t)}
        found = Counting(
            *(WHOLE[kind] * self._exact for kind in ("state", "input")), tuple(new.values()), tuple(self._whole)
        )
        if math.isinf(found.growth(found.inputs)):
            raise Untraceable(f"step may count by more than a sum ({', '.join(new)}): use a float, or % n")
        return found

    def prepared(self) -> Prepared:
        """How the leaves that depend on weights alone are computed."""
        return prepare(self._operations, self._prepared)

    # --- what a tensor is -----------------------------------------------------------------------------------------
    def value(self, tensor: Tensor) -> Value:
        """The value in the graph of a tensor that the step computed, read or made."""
        self._meet(tensor)
        if id(tensor) in self._moving and isinstance(tensor.grad_fn, torch.autograd.function.BackwardCFunction):
            return self._with_own_gradient(tensor)
        return self._plain(tensor)

    def _number_or_value(self, tensor: Tensor) -> Any:
        """Whole numbers that are known now are given as they are."""
        whole = not (tensor.is_floating_point() or tensor.is_complex())
        constant = id(tensor) not in self._values and isinstance(self._origins[id(tensor)][1], Tensor)
        return tensor if whole and constant else self.value(tensor)

    def _plain(self, tensor: Tensor) -> Value:
        if id(tensor) in self._values:
            return self._values[id(tensor)][1]
        origin = self._origins[id(tensor)][1]
        if isinstance(origin, Tensor) and tensor.numel() <= SPELT:
            return self._constant(tensor)
        if tensor.numel() == 0:
            raise Untraceable(f"step makes an empty tensor of shape {list(tensor.shape)}{where()}")
        if isinstance(tensor.grad_fn, torch.autograd.function.BackwardCFunction):
            raise Untraceable(f"step calls a torch.autograd.Function of weights alone{where()}: call it in inputs")
        own = f"({len(self._prepared)})"
        # What a constant is now; it may be written to later.
        self._prepared[own] = tensor.detach().clone() if isinstance(origin, Tensor) else origin
        return self._leaf(f"weight.{own}", tensor)

    def _constant(self, tensor: Tensor) -> Value:
        if tensor.is_complex():
            return Pair(self._constant(tensor.real), self._constant(tensor.imag))
        if tensor.numel() == 0:
            raise Untraceable(f"step makes an empty tensor of shape {list(tensor.shape)}{where()}")
        node = self.graph.table(tensor.detach().flatten().tolist(), tuple(tensor.shape))
        if tensor.dtype == torch.bool:
            return self.graph.pointwise("not", self.graph.pointwise("eq", node, self.graph.constant(0.0)))
        return node

    def _with_own_gradient(self, tensor: Tensor) -> Value:
        """What a `torch.autograd.Function` returned: from here on its value has the gradient that this says."""
        forward = self._plain(tensor)
        if isinstance(forward, Node) and forward.op == "custom":
            return forward
        self.custom = True
        known = {(id(t.grad_fn), t.output_nr): t for t, _ in self._values.values() if t.grad_fn is not None}
        with Leaving(), self:
            value = own_gradient(self.graph, tensor, forward, known, self._example_gradient, self.value)
        if isinstance(value, str):
            raise Untraceable(f"step calls a torch.autograd.Function {value}{where()}")
        self._values[id(tensor)] = tensor, value
        return value

    def _meet(self, tensor: Tensor) -> None:
        """A tensor that no operation of the step has made: it has to be one of those that can be found again."""
        key = id(tensor)
        if key in self._values or key in self._origins:
            return
        if key in self._met:
            name = self._met[key][0]
            self._leaf(f"weight.{name}", tensor)
            self._weight(name, tensor)
            return
        twin = next((known for known, _ in self._values.values() if _same_memory(known, tensor)), None)
        if twin is None:
            raise Untraceable(
                f"step reads a tensor of shape {list(tensor.shape)} that neither the layer holds nor step names"
                f"{where()}: make it a buffer or a parameter"
            )
        self._values[key] = tensor, self._values[id(twin)][1]
        if id(twin) in self._moving:
            self._moving.add(key)

    # --- operations -----------------------------------------------------------------------------------------------
    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if draws(func, args, kwargs):
            raise Untraceable(f"step {RANDOM.format(at=where())}")
        name = func._overloadpacket._qualified_op_name.removeprefix("aten::")
        tensors = origins((args, kwargs))
        if name in ("lift_fresh", "lift_fresh_copy"):  # a tensor made from Python's numbers
            self._origins.setdefault(id(args[0]), (args[0], args[0]))
        for tensor in tensors:
            self._meet(tensor)
        if not any(id(tensor) in self._moving for tensor in tensors):
            return self._fixed(func, name, args, kwargs, tensors)
        if torch.Tag.inplace_view in func.tags:  # squeeze_ and its like change no number
            name = name.removesuffix("_")
        elif func._schema.is_mutable and name.endswith("_"):
            self._write(func, name.removesuffix("_"), args, kwargs)
            return args[0]
        if name in LOWERING or name == "as_strided":
            result = func(*args, **kwargs)
            self._record(name, args, kwargs, result)
            return result
        return self._decomposed(func, name, args, kwargs)

    def _decomposed(self, func: Any, name: str, args: tuple, kwargs: dict) -> Any:
        with self:
            decomposed = decompose(func, args, kwargs)
        if decomposed is NotImplemented:
            raise Untraceable(refusal(name))
        return decomposed

    def _write(self, func: Any, name: str, args: tuple, kwargs: dict) -> None:
        """An operation in place, as the same operation that gives a new tensor, and then a copy."""
        target, plain = args[0], getattr(torch.ops.aten, name, None)
        if self._is_weight(target):
            raise Untraceable(f"step changes a weight or buffer in place{where()}: make it a state")
        if name == "copy":
            source = args[1]
        elif plain is None or func._overloadname not in plain.overloads():
            self._decomposed(func, name, args, kwargs)
            return
        else:
            with self:
                source = getattr(plain, func._overloadname)(*args, **kwargs)
        known = [t for t, _ in (*self._values.values(), *self._origins.values()) if share_memory(t, target)]
        others = [(t, self._plain(t)) for t in {id(t): t for t in known}.values()]
        before = {id(t): value for t, value in others}
        try:
            changed = list(written(self.graph, target, self.value(source), others))
        except ValueError as error:
            raise Untraceable(f"step uses {name}_ in a way that is not supported ({error}){where()}") from error
        target.copy_(source)
        for tensor, value in changed:
            unseen = self._trains and not torch.is_grad_enabled()
            self._keep(tensor, self._without_gradient(value, before.get(id(tensor))) if unseen else value)

    def _keep(self, tensor: Tensor, value: Value) -> None:
        """The value of a tensor that depends on the time step."""
        self._values[id(tensor)] = tensor, value
        self._moving.add(id(tensor))
        self._origins.pop(id(tensor), None)

    def _fixed(self, func: Any, name: str, args: tuple, kwargs: dict, tensors: list[Tensor]) -> Any:
        """An operation on weights and constants: run it, and remember how its results come about."""
        if func._schema.is_mutable and any(writes_to(func, args, kwargs, t) and self._is_weight(t) for t in tensors):
            raise Untraceable(f"step changes a weight or buffer in place{where()}: make it a state")
        result = func(*args, **kwargs)
        results = [t for t in (result if isinstance(result, tuple | list) else [result]) if isinstance(t, Tensor)]
        known = {id(t): self._origins[id(t)][1] for t in tensors if id(t) in self._origins}
        if not any(isinstance(origin, Weight | Result) for origin in known.values()):
            self._origins.update({id(t): (t, t) for t in results})
            return result
        if not results and name in ("_local_scalar_dense", "item", "is_nonzero", "equal"):
            raise Untraceable(refusal(name))
        number = len(self._operations)
        template = replaced((args, kwargs), lambda t: known.get(id(t), t))
        self._operations.append(Operation(func, *template, torch.is_grad_enabled()))
        for i, tensor in enumerate(results):
            self._origins[id(tensor)] = tensor, Result(number, i)
            self._values.pop(id(tensor), None)
        if name in LOWERING and all(id(t) in self._values for t in tensors) and all(map(_is_view, results)):
            self._record(name, args, kwargs, result)
        return result

    def _is_weight(self, tensor: Tensor) -> bool:
        """Whether a tensor lies in the memory of a weight."""
        memory = tensor.untyped_storage().data_ptr()
        return any(
            isinstance(origin, Weight) and known.untyped_storage().data_ptr() == memory
            for known, origin in self._origins.values()
        )

    def _record(self, name: str, args: tuple, kwargs: dict, result: Any) -> None:
        before = len(self.graph._known)
        moving = any(id(t) in self._moving for t in origins((args, kwargs)))
        # What is detached has no gradient anyway, so that it does not matter where it came from.
        read: Callable[[Tensor], Any] = self._plain if name == "detach" else self.value
        if name in BY_NUMBER:
            read = self._number_or_value
        try:
            if name == "as_strided":
                lowered = seen(self.graph, self.value(args[0]), args[0], result)
            else:
                lowered = LOWERING[name](self.graph, *replaced(args, read), **replaced(kwargs, read))
        except (Untraceable, Warning):
            raise
        except Exception as error:
            reason = str(error) or type(error).__name__
            raise Untraceable(f"step uses {name} in a way that is not supported ({reason}){where()}") from error
        results = [t for t in (result if isinstance(result, tuple | list) else [result]) if t is not None]
        self._check_types(args, kwargs, results)
        lowered = lowered if isinstance(lowered, list) else [lowered]
        for tensor, value in zip(results, lowered, strict=True):
            if self._trains and moving and (name == "detach" or not torch.is_grad_enabled()):
                value = self._without_gradient(value, None)
            self._values[id(tensor)] = tensor, value
            if moving:
                self._keep(tensor, value)
            narrower = name == "_to_copy" and tensor.dtype is torch.int32 and _is_whole(args[0])
            whole = (name in COUNTING or narrower) and isinstance(value, Node) and _is_whole(tensor)
            if whole and largest(value, self._sizes()) > min(self._exact, torch.iinfo(tensor.dtype).max):
                raise Untraceable(f"step may count beyond what its type holds exactly{where()}: use a float")
        if len(self.graph._known) > before:
            place = user_line()
            for node in list(self.graph._known.values())[before:]:
                self.lines[node] = place

    def _without_gradient(self, value: Value, old: Value | None) -> Value:
        """A value that autograd does not know of. What is written in place unknown to it keeps the gradient it had."""
        if not self._differentiates and not torch.is_grad_enabled():
            raise Untraceable(f"step computes without gradients{where()}, beside what PyTorch cannot differentiate")
        if isinstance(value, Pair):
            before = old if isinstance(old, Pair) else Pair(*[None] * 2)  # type: ignore[list-item]
            return Pair(*map(self._without_gradient, (value.real, value.imag), (before.real, before.imag)))
        if value.is_bool:
            return value
        stopped = self.graph.pointwise("stop", value)
        if not isinstance(old, Node):
            return stopped
        return self.graph.pointwise("slope", stopped, old, self.graph.constant(1.0))

    def _check_types(self, args: tuple, kwargs: dict, results: Any) -> None:
        given = {t.dtype.to_real() for t in origins((args, kwargs)) if id(t) in self._values}
        for tensor in results:
            floating = tensor.is_floating_point() or tensor.is_complex()
            if floating and tensor.dtype.to_real() not in self._real and given & self._real - {torch.bool}:
                own = ", ".join(str(dtype)[6:] for dtype in self._real if dtype.is_floating_point)
                self.refusal = f"step computes in {str(tensor.dtype)[6:]}{where()}, where all else is {own}"


def _same_memory(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are the same numbers, seen the same way."""
    return (
        a.dtype == b.dtype and a.shape == b.shape and a.stride() == b.stride()
        and a.storage_offset() == b.storage_offset()
        and a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr() != 0
    )  # fmt: skip


def _is_view(tensor: Tensor) -> bool:
    return tensor._is_view()


def _is_whole(tensor: Tensor) -> bool:
    return not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype is torch.bool)
