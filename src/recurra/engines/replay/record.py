"""What sees every operation of a mapped step, on sequences and lanes side by side, and writes it down.

It stands below autograd and `torch.func`: what it sees are the operations that autograd differentiates when the mapped
step runs, so that running them again gives the same numbers and the same gradients, without the mapping.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._C import _functorch
from torch._functorch.autograd_function import custom_function_call
from torch.autograd.function import BackwardCFunction
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from recurra.compiler.frontend.prepared import Operation, Origin, Result, Weight, origins, replaced
from recurra.compiler.frontend.primitives import draws
from recurra.compiler.frontend.refusal import RANDOM, Untraceable, refusal, where

VALUES = ("_local_scalar_dense", "item", "is_nonzero", "equal")
"""Operations that give Python a number."""


class Recorder(TorchDispatchMode):
    """Every tensor has an origin: a leaf, by its name, or the result of an operation."""

    def __init__(self, met: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.operations: list[Operation] = []
        self.counts: list[int | None] = []
        """How many results each operation has in a tuple; None: one, and no tuple."""
        self.constants: dict[str, Tensor] = {}
        """Leaves that the step makes of Python's numbers."""
        self.examples: dict[Origin, Tensor] = {}
        self._met = {id(tensor): name for name, tensor in met.items()}
        self._known: dict[int, Origin] = {}
        self._places: dict[tuple, Origin] = {}
        self._tracked: set[Origin] = set()
        # An id stands for one tensor as long as that is alive.
        self._alive: list[Any] = []
        self._own: set[int] = set()
        self._paused = False

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Not wrapping the dispatch for torch.compile saves the second that importing it takes."""
        return False

    # --- what a tensor is -----------------------------------------------------------------------------------------
    def leaf(self, name: str, tensor: Tensor) -> Origin:
        """A tensor that the step is given."""
        origin = Weight(name)
        self._remember(tensor, origin, tensor.requires_grad)
        return origin

    def constant(self, name: str, tensor: Tensor) -> None:
        """A tensor that is the same whatever the step is given."""
        self.constants[name] = tensor.clone()
        self.leaf(name, tensor)

    def origin(self, tensor: Tensor) -> Origin:
        """Where a tensor that the step uses or returns comes from. Raises Untraceable if nobody can tell."""
        if isinstance(tensor.grad_fn, BackwardCFunction) and id(tensor.grad_fn) not in self._own:
            raise Untraceable(f"step calls a torch.autograd.Function with a rule for vmap of its own{where()}")
        known = self._known.get(id(tensor))
        if known is None and id(tensor) in self._met:
            known = self.leaf(f"weight.{self._met[id(tensor)]}", tensor)
        # Autograd may hand on another object for the same memory, and `.data` gives one that it does not know.
        known = known or self._places.get(place(tensor, tensor.requires_grad))
        if known is None and (tracked := self._places.get(place(tensor, True))) is not None:
            return self._add(torch.ops.aten.detach.default, (tracked,), {}, tensor)
        if known is None:
            raise Untraceable(
                f"step reads a tensor of shape {list(tensor.shape)} that neither the layer holds nor step names"
                f"{where()}: make it a buffer or a parameter"
            )
        return known

    def is_tracked(self, origin: Origin) -> bool:
        """Whether autograd follows a value."""
        return origin in self._tracked

    def _remember(self, tensor: Tensor, origin: Origin, tracked: bool) -> None:
        self._alive.append(tensor)
        self._known[id(tensor)] = origin
        self._places[place(tensor, tracked)] = origin
        self.examples[origin] = tensor
        if tracked:
            self._tracked.add(origin)

    # --- operations -----------------------------------------------------------------------------------------------
    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if self._paused:
            return func(*args, **kwargs)
        if draws(func, args, kwargs):
            raise Untraceable(f"step {RANDOM.format(at=where())}")
        name = func._overloadpacket._qualified_op_name.removeprefix("aten::")
        if name in ("lift_fresh", "lift_fresh_copy") and id(args[0]) not in self._known:
            self.constant(f"constant.{len(self.constants)}", args[0])
        own, named = replaced((args, kwargs), self.origin)
        if torch.Tag.inplace_view in func.tags:
            # squeeze_ and its like change no number, but what is known of the tensor so far.
            self.examples[self.origin(args[0])] = args[0].detach()
        result = func(*args, **kwargs)
        if torch.Tag.inplace_view in func.tags:
            packet = getattr(torch.ops.aten, name.removesuffix("_"))
            self._add(getattr(packet, func._overloadname), own, named, args[0])
        elif name in VALUES:
            if not self._are_constant(origins((own, named))):
                raise Untraceable(refusal(name))
        else:
            self._add(func, own, named, result)
        return result

    def _add(self, function: Any, args: tuple, kwargs: dict, result: Any) -> Origin:
        """Write an operation down, and remember its results: those that are new."""
        number = len(self.operations)
        self.operations.append(Operation(function, args, kwargs, torch.is_grad_enabled()))
        several = isinstance(result, tuple | list)
        self.counts.append(len(result) if several else None)
        tracked = torch.is_grad_enabled() and function is not torch.ops.aten.detach.default
        tracked = tracked and any(origin in self._tracked for origin in origins((args, kwargs)))
        written = {id(self.examples[origin]) for origin in writes(self.operations[-1])}
        for i, tensor in enumerate(result if several else [result]):
            if isinstance(tensor, Tensor) and id(tensor) not in written:
                is_real = tensor.is_floating_point() or tensor.is_complex()
                self._remember(tensor, Result(number, i), tracked and is_real)
        return Result(number)

    def further(self, operation: Operation, result: Tensor) -> int:
        """Add an operation that the step does not do; its number."""
        self.operations.append(operation)
        self.counts.append(None)
        self.examples[Result(len(self.operations) - 1)] = result
        return len(self.operations) - 1

    def _are_constant(self, values: list[Any]) -> bool:
        """Whether values come from Python's numbers alone."""
        seen: set[Origin] = set()
        while values:
            origin = values.pop()
            if isinstance(origin, Weight) and origin.name not in self.constants:
                return False
            if isinstance(origin, Result) and origin not in seen:
                operation = self.operations[origin.operation]
                values += origins((operation.args, operation.kwargs))
            seen.add(origin)
        return True

    def custom(self, call: Any, args: tuple) -> Any:
        """A `torch.autograd.Function`, written down whole, as PyTorch has mapped it, with its own gradient."""
        operands = [_plain(a) if isinstance(a, Tensor) else a for a in args[1:]]
        if not torch.is_grad_enabled() or not any(isinstance(a, Tensor) and a.requires_grad for a in operands):
            return call(*args)
        template = replaced(tuple(operands), self.origin)
        with self._pause():
            result = call(*args)
            plain = [_plain(t) if isinstance(t, Tensor) else t for t in (result if type(result) is tuple else [result])]
            made: dict[int, Any] = {
                id(t.grad_fn): t.grad_fn for t in plain if isinstance(t, Tensor) and t.requires_grad
            }
            if len(made) != 1 or not hasattr(next(iter(made.values())), "_forward_cls"):
                raise Untraceable(f"step calls a torch.autograd.Function with a rule for vmap of its own{where()}")
            ((number, node),) = made.items()
            function = _tensors_of(node._forward_cls.apply)
            if any(t is a for t in plain for a in operands) or len(function(*operands)) != len(plain):
                raise Untraceable(f"step calls a torch.autograd.Function that returns no new tensors{where()}")
        self._own.add(number)
        self._alive.append(node)
        self._add(function, template, {}, tuple(plain))
        return result

    @contextmanager
    def _pause(self) -> Iterator[None]:
        self._paused = True
        try:
            yield
        finally:
            self._paused = False


class Functions(TorchFunctionMode):
    """Shows calls of a `torch.autograd.Function` to the recorder before they are taken apart."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self._recorder = recorder

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func is custom_function_call and not kwargs:
            return self._recorder.custom(func, args)
        return func(*args, **(kwargs or {}))


def _tensors_of(function: Callable) -> Callable[..., tuple[Tensor, ...]]:
    """A function's results, without what PyTorch notes beside them on mapped axes."""
    return lambda *args: tuple(t for t in tree_leaves(function(*args)) if isinstance(t, Tensor))


def _plain(tensor: Tensor) -> Tensor:
    """What is inside of a tensor that `vmap` has wrapped."""
    while _functorch.is_batchedtensor(tensor):
        tensor = _functorch.get_unwrapped(tensor)
    return tensor


def place(tensor: Tensor, tracked: bool) -> tuple:
    """The same for tensors that are the same numbers, seen the same way, and followed by autograd or not."""
    return (tensor.untyped_storage()._cdata, tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype,
            tensor.is_conj(), tensor.is_neg(), tracked)  # fmt: skip


def writes(operation: Operation) -> list[Origin]:
    """The arguments that an operation writes to."""
    schema = getattr(operation.function, "_schema", None)
    if schema is None or not schema.is_mutable:
        return []
    given = dict(zip((a.name for a in schema.arguments), operation.args, strict=False)) | operation.kwargs
    written = [given.get(a.name) for a in schema.arguments if a.alias_info is not None and a.alias_info.is_write]
    return [origin for origin in written if isinstance(origin, Weight | Result)]
