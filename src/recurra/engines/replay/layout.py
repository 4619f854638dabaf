"""How tensors lie while they are replayed: lanes first, then sequences; without the axis of a single lane."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap

from recurra.problem import Problem, StepInput


class Layout:
    """The layout of a problem. Lanes come first, since what all sequences read alike is then one matrix per lane."""

    def __init__(self, problem: Problem) -> None:
        self._alone = problem.lanes == 1
        self._time = problem.time

    def state(self, state: Tensor) -> Tensor:
        """[B, L, ...] to [L, B, ...]."""
        return (state.squeeze(1) if self._alone else state.transpose(0, 1)).contiguous()

    def start(self, start: Tensor) -> Tensor:
        """[L, ...] as what can stand for a state."""
        return start.squeeze(0) if self._alone else start.unsqueeze(1)

    def constant(self, entry: StepInput) -> Tensor:
        """An input that never changes, [L, ...]."""
        return entry.tensor.squeeze(0) if entry.per_lane and self._alone else entry.tensor

    def over_time(self, entry: StepInput) -> tuple[Tensor, ...]:
        """An input of every time step, [B, T, L, ...] to T times [L, B, ...]."""
        tensor = entry.tensor
        if not entry.per_lane or self._alone:
            tensor = (tensor.squeeze(2) if entry.per_lane else tensor).movedim(1, 0)
        else:
            tensor = tensor.movedim((1, 2), (0, 1))
        return tensor.contiguous().unbind(0)

    def rows(self, flags: Tensor, state: Tensor) -> tuple[Tensor, ...]:
        """[B, T] flags of sequences, for every time step, to choose between states [B, L, ...]."""
        return flags.t().reshape(self._time, -1, *[1] * (state.dim() - 2)).unbind(0)

    def back(self, state: Tensor) -> Tensor:
        """[L, B, ...] to [B, L, ...]."""
        return state.unsqueeze(1) if self._alone else state.transpose(0, 1)

    def outputs(self, outputs: list[Tensor]) -> Tensor:
        """T times [L, B, ...] to [B, T, L, ...]."""
        if self._alone:
            return torch.stack(outputs, 1).unsqueeze(2)
        return torch.stack(outputs).movedim(2, 0).contiguous()

    def everywhere(self, problem: Problem) -> Tensor:
        """One True for each lane of each sequence."""
        rows = max(problem.batch, 1)
        return torch.ones(rows if self._alone else (problem.lanes, rows), dtype=torch.bool, device=problem.device)

    def mapped(self, step: Callable, inputs: Mapping[str, StepInput]) -> Callable[..., Any]:
        """A step of one lane of one sequence, and of one of `everywhere`, as a step of all in this layout."""
        rows = vmap(step, in_dims=(0, {name: 0 if entry.per_time else None for name, entry in inputs.items()}, 0))
        if self._alone:
            return rows
        return vmap(rows, in_dims=(0, {name: 0 if entry.per_lane else None for name, entry in inputs.items()}, 0))
