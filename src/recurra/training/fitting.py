"""The training loop of any model: batches, a loss, steps down."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from recurra import options
from recurra.data.reading import Batch, Reading
from recurra.errors import RecurraError
from recurra.state import State
from recurra.training.checkpoint import Position
from recurra.training.interrupt import deferred
from recurra.training.keeping import EVERY, START, Kept

Loss = Callable[[Batch, State | None], tuple[Tensor, State | None]]
"""Of a batch and the state carried into it: the loss [] and the state to carry on."""
CLIPPED = ("together", "each", "number")
Progress = Callable[[dict[str, float]], None]
"""Called after every update with its metrics."""


@dataclass(frozen=True)
class Schedule:
    """How long to train and how large the steps are.

    Raises InputError if a setting is out of range.
    """

    steps: int = 1000
    """Updates; they also set the learning rate's course."""
    seconds: float | None = None
    """Stop after this much time in place of so many steps, with the same course."""
    learning_rate: float = 4e-3
    """It rises over the first twentieth, and falls to nothing along a cosine."""
    weight_decay: float = 0.05
    clip: float = 1.0
    """Largest norm of the gradient."""
    clipped: str = "together"
    """What `clip` bounds: the norm of all gradients "together", that of "each" parameter's, or every single "number".
    """

    def __post_init__(self) -> None:
        options.count("steps", self.steps)
        options.number("learning_rate", self.learning_rate, 0)
        options.number("weight_decay", self.weight_decay, 0)
        options.number("clip", self.clip, 0)
        options.choice("clipped", self.clipped, CLIPPED)
        if self.seconds is not None:
            options.number("seconds", self.seconds, 0)

    def done(self, step: int, seconds: float) -> float:
        """Which part of the training is over, 0 to 1."""
        return min(1.0, step / self.steps if self.seconds is None else seconds / max(self.seconds, 1e-9))

    def rate(self, done: float) -> float:
        """The learning rate when such a part is over."""
        return self.learning_rate * min(1.0, 20 * done + 0.01) * (0.5 + 0.5 * math.cos(math.pi * done))


def clip(model: nn.Module, schedule: Schedule) -> None:
    """Bound the gradients of a model as its schedule says."""
    if schedule.clipped == "number":
        nn.utils.clip_grad_value_(model.parameters(), schedule.clip)
        return
    for bounded in [model.parameters()] if schedule.clipped == "together" else [[p] for p in model.parameters()]:
        nn.utils.clip_grad_norm_(bounded, schedule.clip)


def adamw(model: nn.Module, decay: float) -> torch.optim.AdamW:
    """The optimiser: weight decay for matrices only, and one kernel for all weights if none is complex."""
    matrices: list[Tensor] = [p for p in model.parameters() if p.dim() >= 2]
    others = [p for p in model.parameters() if p.dim() < 2]
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": decay},
        {"params": others, "weight_decay": 0.0},
    ]
    fused = all(p.is_floating_point() for p in model.parameters())
    return torch.optim.AdamW(groups, betas=(0.9, 0.99), fused=fused)


def fit(
    model: nn.Module,
    reading: Reading,
    loss: Loss,
    schedule: Schedule,
    progress: Progress | None = None,
    kept: Kept | None = None,
) -> int:
    """Train a model, the state of one batch carried into the next; gives the number of updates.

    Args:
        kept: where checkpoints are kept and it goes on from. Ctrl-C then ends it after the update at hand.

    Raises:
        RecurraError: the loss is no longer finite; the model is then as it was before that update.
        InputError, RecurraError: as `Kept.opened` and `Kept.save`.
    """
    optimiser = adamw(model, schedule.weight_decay)
    model.train()
    try:
        if kept is None:
            return _updates(model, optimiser, reading, loss, schedule, progress, START).step
        with kept.opened(model, optimiser) as at, deferred() as interrupted:

            def keep(at: Position) -> None:
                stop = interrupted()
                if at.step % EVERY == 0 or schedule.done(at.step, at.seconds) >= 1 or stop:
                    kept.save(model, optimiser, at)
                if stop:
                    raise KeyboardInterrupt

            step = _updates(model, optimiser, reading, loss, schedule, progress, at, keep).step
            if interrupted():
                raise KeyboardInterrupt
            return step
    finally:
        model.eval()


def _updates(
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    reading: Reading,
    loss: Loss,
    schedule: Schedule,
    progress: Progress | None,
    at: Position,
    keep: Callable[[Position], None] | None = None,
) -> Position:
    """All updates from a position on."""
    began = time.perf_counter() - at.seconds
    while (done := schedule.done(at.step, at.seconds)) < 1:
        for group in optimiser.param_groups:
            group["lr"] = schedule.rate(done)
        value, state = loss(reading.read(at.step), at.state)
        if not math.isfinite(value.item()):
            raise RecurraError(f"the loss became {value.item()} at step {at.step}: use a smaller learning_rate")
        optimiser.zero_grad()
        if value.requires_grad:
            value.backward()
        clip(model, schedule)
        optimiser.step()
        at = Position(at.step + 1, time.perf_counter() - began, None if state is None else state.detach())
        # Told first: whoever writes it down has all updates that a checkpoint holds.
        if progress:
            done = schedule.done(at.step, at.seconds)
            progress({"step": at.step, "loss": value.item(), "seconds": at.seconds, "done": done})
        if keep is not None:
            keep(at)
    return at
