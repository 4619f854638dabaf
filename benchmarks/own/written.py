"""What a recurrence is measured as: with the library, and as somebody writes it without."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from recurra import Linear, Recurrence
from recurra.problem import StepInput, cast


def loop(step: Callable[..., tuple[Any, Tensor]], state: Any, *inputs: Tensor) -> Tensor:
    """The loop of a hand-written layer: `step(state, *inputs of one time step)` gives the state and y; all are
    batches."""
    ys = []
    for now in zip(*(t.unbind(1) for t in inputs), strict=True):
        state, y = step(state, *now)
        ys.append(y)
    return torch.stack(ys, 1)


class Written(Recurrence):
    """A recurrence whose step means the same for [...] and for [B, ...]: then by hand it is a loop over that."""

    title: ClassVar[str]

    def by_hand(self, x: Tensor) -> Tensor:
        """y of x, in plain PyTorch: all sequences side by side, a Python loop over time."""
        read = {name: e if isinstance(e, StepInput) else StepInput(e) for name, e in self.inputs(x).items()}
        moving = [name for name, entry in read.items() if entry.per_time]
        still = {name: entry.tensor for name, entry in read.items() if not entry.per_time}

        def step(state: tuple, *now: Tensor) -> tuple[tuple, Tensor]:
            after, y = self.step(*state, **dict(zip(moving, now, strict=True)), **still)
            return after if isinstance(after, tuple) else (after,), y

        return self.outputs(loop(step, batch_of(self, x), *(read[name].tensor for name in moving)), x)


def batch_of(layer: Recurrence, x: Tensor) -> tuple[Tensor, ...]:
    """The start states of all sequences, in the order of `start`."""
    start = (cast(value, x.dtype) for value in layer.start().values())
    return tuple(value.expand(len(x), *value.shape) for value in start)


class ByHand(nn.Module):
    """The loop by hand as a module, on weights of its own that are the same, with PyTorch's linear maps."""

    def __init__(self, layer: Written):
        super().__init__()
        self.layer = copy.deepcopy(layer)
        for part in self.layer.modules():
            if isinstance(part, Linear):
                part.__class__ = nn.Linear

    def forward(self, x: Tensor) -> Tensor:
        """y of x."""
        return self.layer.by_hand(x)
