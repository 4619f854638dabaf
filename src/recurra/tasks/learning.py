"""Learning from what has just come, one step of gradient descent at a time."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor, nn

from recurra.errors import RecurraError
from recurra.state import State
from recurra.training.checkpoint import moments
from recurra.training.fitting import Schedule, adamw


class Learner:
    """Steps of gradient descent on what has just come, as small as those that training began with."""

    def __init__(self, model: nn.Module, schedule: Schedule, kept: Mapping[str, Tensor]):
        self._model, self._schedule = model, schedule
        self._optimiser = adamw(model, schedule.weight_decay)
        for group in self._optimiser.param_groups:
            group["lr"] = schedule.rate(0)
        groups = self._optimiser.state_dict()["param_groups"]
        self._optimiser.load_state_dict({"state": moments(kept), "param_groups": groups})

    def slope(self, loss: Tensor) -> None:
        """Find the gradient of a loss. Raises RecurraError, and the model is as it was, if the loss is not finite."""
        if not math.isfinite(loss.item()):
            raise RecurraError(f"the loss of what came is {loss.item()}; nothing was learned from it")
        self._optimiser.zero_grad()
        if loss.requires_grad:
            loss.backward()

    def step(self) -> None:
        """Go down the gradient that was found."""
        nn.utils.clip_grad_norm_(self._model.parameters(), self._schedule.clip)
        self._optimiser.step()
        self._optimiser.zero_grad()

    def moments(self) -> State:
        """What it remembers of earlier steps."""
        found = self._optimiser.state_dict()["state"]
        return State({f"{number}.{name}": value for number, own in found.items() for name, value in own.items()})
