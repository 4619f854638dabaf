"""What a step computes from weights alone is the same at every time step: it is computed once, before the loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Weight:
    """Stands for a weight in the arguments of an operation."""

    name: str


@dataclass(frozen=True)
class Result:
    """Stands for a result of an earlier operation."""

    operation: int
    number: int = 0


Origin = Weight | Result | Tensor
"""Where a tensor comes from; a tensor stands for itself: a constant."""


@dataclass(frozen=True)
class Operation:
    """One of PyTorch's, with an `Origin` in place of every tensor."""

    function: Callable[..., Any]
    args: tuple
    kwargs: dict[str, Any]
    with_gradient: bool


@dataclass(frozen=True)
class Prepared:
    """Operations in order, and the leaves that they make."""

    operations: tuple[Operation | None, ...] = ()
    """None for those that no leaf needs."""
    leaves: Mapping[str, Origin] = field(default_factory=dict)

    @property
    def weights(self) -> list[str]:
        """Names of the weights that are read."""
        found: dict[str, None] = {}
        for operation in self.operations:
            if operation is not None:
                found |= {o.name: None for o in origins((operation.args, operation.kwargs)) if isinstance(o, Weight)}
        return list(found)

    def __call__(self, weights: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
        """The leaves by name; differentiable in the weights, which come in the type that is computed in."""
        results: list[Any] = []

        def value(origin: Origin) -> Any:
            if isinstance(origin, Weight):
                return weights[origin.name]
            if isinstance(origin, Tensor):
                return origin.to(device)
            made = results[origin.operation]
            return made[origin.number] if isinstance(made, tuple | list) else made

        for operation in self.operations:
            made = None
            if operation is not None:
                args, kwargs = replaced((operation.args, operation.kwargs), value)
                with torch.set_grad_enabled(operation.with_gradient and torch.is_grad_enabled()):
                    made = operation.function(*args, **kwargs)
            results.append(made)
        return {name: value(origin) for name, origin in self.leaves.items()}


def prepare(operations: list[Operation], leaves: Mapping[str, Origin]) -> Prepared:
    """Keep what the leaves need; all, if one writes in place, since others may read what it writes."""
    needed: set[int] = set()
    left = [origin.operation for origin in leaves.values() if isinstance(origin, Result)]
    if left and any(operation.function._schema.is_mutable for operation in operations):
        left = list(range(len(operations)))
    while left:
        number = left.pop()
        if number not in needed:
            needed.add(number)
            operation = operations[number]
            inner = origins((operation.args, operation.kwargs))
            left += [origin.operation for origin in inner if isinstance(origin, Result)]
    return Prepared(tuple(o if i in needed else None for i, o in enumerate(operations)), dict(leaves))


def replaced(value: Any, by: Callable[[Any], Any]) -> Any:
    """Arguments of an operation with every tensor, or what stands for one, replaced."""
    if isinstance(value, Tensor | Weight | Result):
        return by(value)
    if isinstance(value, tuple | list):
        return type(value)(replaced(item, by) for item in value)
    if isinstance(value, dict):
        return {name: replaced(item, by) for name, item in value.items()}
    return value


def origins(value: Any) -> list[Any]:
    """Every tensor in the arguments of an operation, or what stands for one."""
    found: list[Any] = []
    replaced(value, found.append)
    return found
