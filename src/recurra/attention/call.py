"""One call of a layer whose state grows, and what its engines ask of the layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor


class Growing(Protocol):
    """A step over a state that grows; `Attention` says what each is."""

    @property
    def growing(self) -> tuple[str, ...]:
        """Names of the states that grow."""
        ...

    def start(self, like: Tensor) -> dict[str, Tensor]:
        """The state before the first time step."""
        ...

    def kept(self, position: Tensor) -> Tensor:
        """Entries held after `position` time steps."""
        ...

    def step(self, *states: Tensor, present: Tensor, **inputs: Tensor) -> tuple[Any, Tensor]:
        """One time step of one lane of one sequence."""
        ...


@dataclass(frozen=True)
class Call:
    """One call of an attention layer, checked and prepared."""

    inputs: Mapping[str, Tensor]
    """What a step reads, [B, T, lanes, ...]."""
    state: Mapping[str, Tensor]
    """What is carried in: [B, lanes, S, ...] where it grows, else [B, lanes, ...]."""
    position: Tensor
    """[B, T] int64: time steps of the same sequence before each."""
    ends: Tensor
    """[B] int64: valid time steps."""
    last: Tensor
    """[B] int64: time steps that each row's sequence has behind it after this call."""
    whole: bool
    """Whether every row is one sequence from its first time step on."""
