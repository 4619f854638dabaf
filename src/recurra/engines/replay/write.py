"""Operations as a Python function: nothing is looked up, unpacked or decided while it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
    operations: Mapping[int, Operation],
    recorder: Recorder,
    arguments: Sequence[Origin],
    results: Sequence[Origin],
    in_order: int = 0,
) -> Callable[..., tuple[Tensor, ...]]:
    """A function of `arguments` that does these operations and returns `results`.

    Args:
        in_order: how many results are brought into the order in memory that arguments were recorded with.
    """
    writer = _Writer(recorder)
    for i, origin in enumerate(arguments):
        writer.names[origin] = f"a{i}"
    lines = [f"def run({', '.join(writer.names[origin] for origin in arguments)}):"]
    for number, operation in operations.items():
        line = writer.line(number, operation)
        # Where gradients are off already, they stay off.
        lines += [f"    {line}"] if operation.with_gradient else ["    with no_grad():", f"        {line}"]
    made = [writer.in_order(origin) if i < in_order else writer.names[origin] for i, origin in enumerate(results)]
    lines.append(f"    return ({''.join(f'{name}, ' for name in made)})")
    exec("\n".join(lines), writer.scope)
    return writer.scope["run"]


class _Writer:
    def __init__(self, recorder: Recorder):
        self.names: dict[Origin, str] = {}
        self.scope: dict[str, Any] = {"no_grad": torch.no_grad}
        self._counts, self._examples = recorder.counts, recorder.examples

    def line(self, number: int, operation: Operation) -> str:
        """One operation."""
        called = self._held(callable_of(operation, self._examples))
        written = [self._text(value) for value in operation.args]
        written += [f"{name}={self._text(value)}" for name, value in operation.kwargs.items()]
        count = self._counts[number]
        own = [f"r{number}_{i}" for i in range(1 if count is None else count)]
        self.names.update((Result(number, i), name) for i, name in enumerate(own))
        left = own[0] if count is None else f"({', '.join(own)},)"
        return f"{left} = {called}({', '.join(written)})"

    def in_order(self, origin: Origin) -> str:
        """A value, contiguous."""
        plain = self._examples[origin].is_contiguous()
        return self.names[origin] if plain else f"{self.names[origin]}.contiguous()"

    def _held(self, value: object) -> str:
        name = f"c{len(self.scope)}"
        self.scope[name] = value
        return name

    def _text(self, value: Any) -> str:
        if isinstance(value, Weight | Result):
            return self.names[value]
        if isinstance(value, list | tuple):
            return f"[{', '.join(map(self._text, value))}]"
        return repr(value) if isinstance(value, PLAIN) else self._held(value)


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
