"""What tensors of a step become in its graph: a node, two for a complex one; and what is known of those it reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from recurra.compiler.frontend.graph import Node


@dataclass(frozen=True)
class Pair:
    """A complex value."""

    real: Node
    imag: Node

    @property
    def shape(self) -> tuple[int, ...]:
        return self.real.shape

    def __getattr__(self, name: str) -> Any:
        """What a rule for real values asks of a value says that there is none for complex ones."""
        raise (TypeError("a complex operand") if name in Node.__dataclass_fields__ else AttributeError(name))


Value = Node | Pair


@dataclass(frozen=True)
class Leaf:
    """Something `step` reads besides the state."""

    name: str
    shape: tuple[int, ...]
    """Of one lane of one sequence."""
    per_time: bool
    per_lane: bool
    scalar: str
    """How it is stored: float, double, bfloat, half or i8."""


def parts(name: str, value: Value | tuple[Value, ...]) -> dict[str, Node]:
    """A real value under its name, a complex one as two, those of a tuple by their numbers."""
    if isinstance(value, tuple):
        return {k: node for i, each in enumerate(value) for k, node in parts(f"{name}.{i}", each).items()}
    if isinstance(value, Pair):
        return {f"{name}.real": value.real, f"{name}.imag": value.imag}
    return {name: value}
