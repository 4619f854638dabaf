"""What engines see and what they return: plain frozen data, no modules.

Shape letters used in the whole project: B batch, T time, L lanes, D width, H heads, N state size,
K and V key and value widths, C time steps in a chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

import torch
from torch import Tensor


class Lane(StrEnum):
    """The smallest part of the state that evolves without looking at the others."""

    CHANNEL = "channel"
    HEAD = "head"
    LAYER = "layer"


@dataclass(frozen=True)
class StepInput:
    """A tensor that `step` reads: by default one value per time step and lane, [B, T, L, ...].

    Not `per_lane`: all lanes read the same, [B, T, ...]. Not `per_time`: it never changes, [L, ...].
    """

    tensor: Tensor
    per_time: bool = True
    per_lane: bool = True


def shared(tensor: Tensor) -> StepInput:
    """Mark an entry of `inputs` that every lane reads alike: [B, T, ...], without a lane axis."""
    return StepInput(tensor, per_lane=False)


def constant(tensor: Tensor) -> StepInput:
    """Mark an entry of `inputs` that is the same at every time step and in every sequence: [L, ...]."""
    return StepInput(tensor, per_time=False)


class Step(Protocol):
    """One time step of one lane: `step(states, inputs) -> (new states, output)`, all without batch axis."""

    names: tuple[str, ...]
    """Names of the states, in the order in which `step` takes and returns them."""

    @property
    def owner(self) -> Any:
        """Whose step this is."""
        ...

    @property
    def reading(self) -> Any:
        """What the step reads besides its arguments: `key`, equal for equal functions, `tensors` by name, and `found`,
        where engines keep what they have found out."""
        ...

    @property
    def weights(self) -> Mapping[str, Tensor]:
        """The tensors that `step` may read besides its arguments, by where they are found."""
        ...

    def bind(self, weights: Mapping[str, Tensor]) -> Step:
        """The same step reading these tensors in place of its own."""
        ...

    @property
    def combine(self) -> Callable[[tuple, tuple], tuple] | None:
        """For a step that is associative: (earlier states, later states) to the states of both stretches of time, one
        after the other, of one lane. A stretch's states are those it leads to from the start. None if not known."""
        ...

    @property
    def as_delta_rule(self) -> Callable[..., DeltaRule] | None:
        """The same steps as a delta rule, from `(*states, **inputs)` of all time steps; None if not known as one.

        States come as [B, L, ...], inputs as [B, T, L, ...], with 1 for an axis along which they do not change.
        """
        ...

    def __call__(
        self, states: tuple[Tensor, ...], inputs: Mapping[str, Tensor]
    ) -> tuple[tuple[Tensor, ...], Tensor]: ...


@dataclass(frozen=True)
class DeltaRule:
    """A matrix memory S: [V, K] in each lane, o_t = S_t q with

    S' = S_{t-1} diag(exp(log_decay)),  S_t = S' - (S' erase) take^T + beta v k^T,

    where erase = beta k and take = k if nothing else is said.

    Tensors are [B, T, L, ...], with 1 for an axis along which they do not change. A time step may write several times,
    one after another, the decay before the first and the read after the last: then k, v, beta, erase and take are
    [B, T, L, J, ...].
    """

    q: Tensor
    """[..., K]"""
    k: Tensor
    """[..., K]"""
    v: Tensor
    """[..., V]"""
    S: Tensor
    """The memory before the first time step, [B, L, V, K]. What a reset selects is zero."""
    beta: Tensor | None = None
    """[...]; None: it is 1, and nothing is erased but what `erase` says: S_t = S' + v k^T."""
    log_decay: Tensor | None = None
    """[...], or [..., K] for a decay per key, none above 0; None: nothing decays."""
    angle: Tensor | None = None
    """[..., K/2]: columns i and K/2 + i of S_{t-1}, as points of the plane, turn by angle i first; None: none does."""
    erase: Tensor | None = None
    """[..., K]: the key whose value is taken out of the memory."""
    take: Tensor | None = None
    """[..., K]: the key under which it is taken out."""
    log_write: Tensor | None = None
    """[...]: what is written is scaled by exp(log_write), and all of S by exp(-m), where m_t = max(log_decay + m_{t-1},
    log_write) keeps numbers small. log_decay then is one number per lane."""
    peak: Tensor | None = None
    """With `log_write`: m before the first time step, [B, L]."""
    before: bool = False
    """Whether the read comes before decay and write: o_t = S_{t-1} q. Not with `log_write`."""
    result: Callable[..., tuple[Any, Tensor]] | None = None
    """From o [B, T, L, V], the last S, and with `log_write` all m, [B, T, L], to (states, outputs) as the recurrence
    has them; None: they are S and o."""


@dataclass(frozen=True)
class Problem:
    """One call of a recurrence over a batch of sequences, with everything an engine may know of it."""

    step: Step
    inputs: Mapping[str, StepInput]
    state: Mapping[str, Tensor]
    """The state each sequence starts from, [B, L, ...]."""
    start: Mapping[str, Tensor]
    """The state that a reset selects, [L, ...]."""
    resets: Tensor | None
    """[B, T] bool: True where a packed sequence starts."""
    lengths: Tensor | None
    """[B] int64: the state stands still, and outputs are zero, from this time step on."""
    batch: int
    time: int
    lanes: int
    lane: Lane
    dtype: torch.dtype
    """Storage type of inputs and outputs; half types are computed in float32."""
    device: torch.device

    def tensors(self) -> Iterator[Tensor]:
        """All that a run may read."""
        yield from (entry.tensor for entry in self.inputs.values())
        yield from (*self.state.values(), *self.start.values(), *self.step.weights.values())

    @property
    def compute_dtype(self) -> torch.dtype:
        """The real type in which `step` runs and in which the state is held."""
        return compute_dtype(self.dtype)


@dataclass(frozen=True)
class Rollout:
    """What an engine returns."""

    y: Tensor
    """[B, T, L, ...]"""
    state: Mapping[str, Tensor]
    """The state after the last time step, [B, L, ...]."""
    report: Mapping[str, Any] = field(default_factory=dict)


Engine = Callable[[Problem], Rollout]


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """float32 for half types, else the type itself."""
    return torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype


def cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """`tensor` in the real type `dtype`, or in the complex type of the same precision if it is complex."""
    if tensor.is_complex():
        return tensor.to(compute_dtype(dtype).to_complex())
    return tensor.to(dtype) if tensor.is_floating_point() else tensor
