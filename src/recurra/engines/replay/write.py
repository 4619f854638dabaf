"""Operations as a Python function: nothing is looked up, unpacked or decided while it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from recurra.compiler.frontend.prepared import Operation, Origin, Result, Weight, replaced
from recurra.engines.replay.record import Recorder

PLAIN = (int, bool, str, type(None))
"""What can be written as it is."""
VIEWS = (torch.ops.aten.view.default, torch.ops.aten._unsafe_view.default)
HOMES = (torch._C._VariableFunctions, torch._C._nn, torch.linalg, torch.fft, torch.special, Tensor)
"""Where PyTorch keeps functions that are faster to call than its operations."""


def function(
    operations: Mapping[int, Operation], recorder: Recorder, arguments: Sequence[Origin], results: Sequence[Origin]
) -> Callable[..., tuple[Tensor, ...]]:
    """A function of `arguments` that does these operations and returns `results`."""
    writer = _Writer(recorder, arguments)
    lines = [f"def run({', '.join(writer.named(arguments))}):", *_indented(writer.lines(operations))]
    lines.append(f"    return {_together(writer.named(results))}")
    return _made(lines, writer.scope)


class Loop:
    """All time steps as one function, written when it is first asked for."""

    def __init__(
        self,
        operations: Mapping[int, Operation],
        recorder: Recorder,
        changing: Sequence[Origin],
        fixed: Sequence[Origin],
        results: Sequence[Origin],
        written: Sequence[bool],
    ) -> None:
        """From the leaves that change in time, states first, and those that do not, to new states and the output.

        Args:
            written: which of the changing leaves are written to, so that copies are made.
        """
        writer = _Writer(recorder, [*changing, *fixed])
        count = len(results) - 1
        self._states, self._now = writer.named(changing[:count]), writer.named(changing[count:])
        self._fixed, self._scope = writer.named(fixed), writer.scope
        copied = [name for name, is_written in zip(writer.named(changing), written, strict=True) if is_written]
        self._body = [f"{name} = {name}.clone()" for name in copied]
        self._body += writer.lines(operations)
        self._after, (self._y,) = [writer.in_order(o) for o in results[:count]], writer.named(results[count:])
        self._made: dict[tuple[bool, bool], Callable] = {}

    def __call__(self, restarts: bool, ends: bool) -> Callable[..., tuple[list[Tensor], tuple[Tensor, ...]]]:
        """A function of time steps (each a tuple of inputs, and of a choice for every state if there are resets, and
        another if there are lengths), of the first states, the start states and what is fixed; to outputs and states.
        """
        if (restarts, ends) not in self._made:
            self._made[restarts, ends] = self._write(restarts, ends)
        return self._made[restarts, ends]

    def _write(self, restarts: bool, ends: bool) -> Callable[..., Any]:
        states, each = self._states, range(len(self._states))
        again, valid, start, before = ([f"{kind}{i}" for i in each] for kind in ("again", "valid", "start", "before"))
        body, after = [], self._after
        if ends:
            body.append(f"{_together(before)} = {_together(states)}")
            after = [f"where({valid[i]}, {after[i]}, {before[i]})" for i in each]
        if restarts:
            body += [f"{states[i]} = where({again[i]}, {start[i]}, {states[i]})" for i in each]
        body += [*self._body, f"append({self._y})", f"{_together(states)} = {_together(after)}"]
        lines = [
            "def run(times, states, start, fixed):",
            f"    {_together(states)}, {_together(start)}, {_together(self._fixed)} = states, start, fixed",
            "    outputs = []",
            "    append = outputs.append",
            f"    for {_together([*self._now, *again * restarts, *valid * ends])} in times:",
            *_indented(_indented(body)),
            f"    return outputs, {_together(states)}",
        ]
        return _made(lines, self._scope)


def _made(lines: Sequence[str], scope: dict[str, Any]) -> Callable[..., Any]:
    """The function `run` that these lines define."""
    own: dict[str, Any] = {}  # another thread may be writing another one
    exec(compile("\n".join(lines), "<replayed step>", "exec"), scope, own)
    return own["run"]


def _together(names: Sequence[str]) -> str:
    """Names as a tuple."""
    return f"({''.join(f'{name}, ' for name in names)})"


def _indented(lines: Sequence[str]) -> list[str]:
    return [f"    {line}" for line in lines]


class _Writer:
    """Names and lines of a function of `arguments`."""

    def __init__(self, recorder: Recorder, arguments: Sequence[Origin]):
        self._names: dict[Origin, str] = {origin: f"a{i}" for i, origin in enumerate(arguments)}
        self.scope: dict[str, Any] = {"no_grad": torch.no_grad, "where": torch.where}
        self._counts, self._examples = recorder.counts, recorder.examples

    def named(self, values: Sequence[Origin]) -> list[str]:
        """The names of values."""
        return [self._names[origin] for origin in values]

    def lines(self, operations: Mapping[int, Operation]) -> list[str]:
        """Operations in order."""
        lines: list[str] = []
        for number, operation in operations.items():
            line = self._line(number, operation)
            # Where gradients are off already, they stay off.
            lines += [line] if operation.with_gradient else ["with no_grad():", f"    {line}"]
        return lines

    def _line(self, number: int, operation: Operation) -> str:
        """One operation."""
        operation = narrowed(operation, self._examples)
        called = self._held(callable_of(operation, self._examples))
        written = [self._text(value) for value in operation.args]
        written += [f"{name}={self._text(value)}" for name, value in operation.kwargs.items()]
        count = self._counts[number]
        own = [f"r{number}_{i}" for i in range(1 if count is None else count)]
        self._names.update((Result(number, i), name) for i, name in enumerate(own))
        left = own[0] if count is None else f"({', '.join(own)},)"
        return f"{left} = {called}({', '.join(written)})"

    def in_order(self, origin: Origin) -> str:
        """A value, contiguous."""
        plain = self._examples[origin].is_contiguous()
        return self._names[origin] if plain else f"{self._names[origin]}.contiguous()"

    def _held(self, value: object) -> str:
        name = f"c{len(self.scope)}"
        self.scope[name] = value
        return name

    def _text(self, value: Any) -> str:
        if isinstance(value, Weight | Result):
            return self._names[value]
        if isinstance(value, list | tuple):
            return f"[{', '.join(map(self._text, value))}]"
        return repr(value) if isinstance(value, PLAIN) else self._held(value)


def narrowed(operation: Operation, examples: Mapping[Origin, Tensor]) -> Operation:
    """A slice by a function that is faster to call."""
    if operation.function is not torch.ops.aten.slice.Tensor or operation.kwargs:
        return operation
    origin, dim, *limits = (*operation.args, 0)[: max(2, len(operation.args))]
    first, last, step = slice(*(*limits, None, None)[:3]).indices(examples[origin].shape[dim])
    if step != 1:
        return operation
    return replace(operation, function=torch.narrow, args=(origin, dim, first, max(last - first, 0)))


def callable_of(operation: Operation, examples: Mapping[Origin, Tensor]) -> Callable[..., Any]:
    """What is called for an operation: where one of PyTorch's faster functions does the very same, that."""
    func = operation.function
    if func in VIEWS:
        return torch.reshape  # the order in memory may be another than when this was recorded
    name = getattr(func, "__name__", "").split(".")[0]
    if not isinstance(func, torch._ops.OpOverload) or func._schema.is_mutable:
        return func
    args, kwargs = replaced((operation.args, operation.kwargs), examples.__getitem__)
    for home in HOMES:
        candidate = getattr(home, name, None)
        if candidate is not None and _first(candidate, args, kwargs) is func:
            return candidate
    return func


def _first(candidate: Callable, args: tuple, kwargs: dict) -> Any:
    """The operation that a function of PyTorch's comes down to."""
    seen = _Seen()
    try:
        with torch.no_grad(), seen:
            candidate(*args, **kwargs)
    except Exception:
        # It takes other arguments.
        return None
    return seen.functions[0] if len(seen.functions) == 1 else None


class _Seen(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.functions: list[Any] = []

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """As for the recorder."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        self.functions.append(func)
        return func(*args, **(kwargs or {}))
