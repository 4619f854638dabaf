"""What is made of several layers and called as one takes a single time step as a sequence of one."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from recurra import check
from recurra.state import State


class StepByStep(nn.Module):
    """A module called as layers are: x [B, T, D] and a state to y [B, T, D] and the next state."""

    width: int

    def advance(
        self, x_t: Tensor, state: Mapping[str, Tensor] | None = None, *, engine: str = "auto"
    ) -> tuple[Tensor, State]:
        """One time step: x_t [B, D] and the state so far to y_t [B, D] and the next state."""
        check.time_step(x_t, self.width)
        y, after = self(x_t[:, None], state, engine=engine)
        return y[:, 0], after
