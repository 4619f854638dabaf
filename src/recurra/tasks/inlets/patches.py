"""Several time steps as one: patches, frames, pyramids, segments."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from recurra import options
from recurra.errors import InputError
from recurra.state import State
from recurra.tasks.chain import Retimed, within

HOW = ("join", "max", "mean")


class Patches(Retimed):
    """Stretches of `size` steps as one step each: x [B, T, D] to y [B, T', size D], or to [B, T', D] of their largest
    or mean numbers.

    y_k = x_{ke} ... x_{ke + size - 1}, with e = `every`; it is given as soon as its last step has come, so that
    T' = floor((T - size) / e) + 1. Steps that no patch has yet are in the state.

    Side by side they are patches of a series, or a pyramid's floors between blocks (`how` may be changed, and so may
    `size`, with "max" and "mean": a schedule of coarser to finer time); overlapping, the frames of a sound.

    Sources: patches as steps: A Time Series is Worth 64 Words, Nie, Nguyen, Sinthong, Kalagnanam, 2023,
    arXiv:2211.14730; pyramids: Listen, Attend and Spell, Chan, Jaitly, Le, Vinyals, 2015, arXiv:1508.01211; their
    largest numbers, coarser at first: Improved training of end-to-end attention models for speech recognition, Zeyer,
    Irie, Schlüter, Ney, 2018, arXiv:1805.03294.

    Args:
        size: steps in a patch.
        every: steps from one to the next, by default the size.
        how: "join", "max" or "mean".
    """

    def __init__(self, size: int, every: int | None = None, how: str = "join"):
        super().__init__()
        self.size = options.count("size", size)
        self.every = options.count("every", self.size if every is None else every, self.size + 1)
        self.how = options.choice("how", how, HOW)

    def initial_state(self, batch: int) -> State:
        """Nothing waits; the width is that of the first x."""
        return State(waiting=torch.empty(batch, 0, 0))

    def retimed(self, resets: Tensor | None, lengths: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """As `Retimed.retimed`."""
        return resets, None if lengths is None else self._patches(lengths)

    def _patches(self, steps: Tensor) -> Tensor:
        return (torch.div(steps - self.size, self.every, rounding_mode="floor") + 1).clamp(min=0)

    def forward(
        self,
        x: Tensor,
        state: Mapping[str, Tensor] | None = None,
        *,
        resets: Tensor | None = None,
        lengths: Tensor | None = None,
        engine: str = "auto",  # noqa: ARG002
    ) -> tuple[Tensor, State]:
        """As `Layer.forward`. With `lengths` sequences end there, and what waits is forgotten.

        Raises InputError for `resets`, which may fall within a patch, or for a state beside `lengths`.
        """
        if resets is not None:
            raise InputError("resets was given to patches, within which it may fall; use lengths, a sequence in a row")
        if state is not None and lengths is not None:
            raise InputError("state and lengths were given to patches; expected one: rows must wait for equally much")
        if state is not None and state["waiting"].shape[1]:
            x = torch.cat([state["waiting"], x], 1)
        count = int(self._patches(torch.tensor(x.shape[1])))
        waiting = x[:, count * self.every :]
        if lengths is not None:
            waiting = x[:, :0]
        if not count:
            y = x.new_zeros(x.shape[0], 0, self.size, x.shape[2])
        else:
            y = x.unfold(1, self.size, self.every).transpose(2, 3)
        y = y.flatten(2) if self.how == "join" else y.amax(2) if self.how == "max" else y.mean(2)
        return within(y, self.retimed(None, lengths)[1]), State(waiting=waiting)


class Segments(Retimed):
    """Whole sequences in `count` parts of about the same length: x [B, T, D] to [B, count, D], the largest or mean
    numbers of each part; zeros where a sequence has fewer steps than that.

    Source: the temporal segments of TS-LSTM and Temporal-Inception, Ma, Chen, Kira, AlRegib, 2017, arXiv:1703.10667.
    """

    def __init__(self, count: int, how: str = "max"):
        super().__init__()
        self.count, self.how = options.count("count", count), options.choice("how", how, HOW[1:])

    def initial_state(self, batch: int) -> State:  # noqa: ARG002
        """Nothing is remembered."""
        return State()

    def retimed(self, resets: Tensor | None, lengths: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """As `Retimed.retimed`: all have `count` steps."""
        del lengths
        return resets, None

    def forward(
        self,
        x: Tensor,
        state: Mapping[str, Tensor] | None = None,
        *,
        resets: Tensor | None = None,
        lengths: Tensor | None = None,
        engine: str = "auto",  # noqa: ARG002
    ) -> tuple[Tensor, State]:
        """As `Layer.forward`. Raises InputError if this is not the whole of one sequence in each row."""
        if state is not None or resets is not None:
            raise InputError("state or resets was given to segments, which need the whole of one sequence in each row")
        steps = torch.arange(x.shape[1], device=x.device)
        ends = torch.full(x.shape[:1], x.shape[1], device=x.device) if lengths is None else lengths
        part = steps * self.count // ends.clamp(min=1)[:, None]
        part = torch.where(steps < ends[:, None], part, self.count)[..., None].expand_as(x)  # one more for the padding
        y = x.new_zeros(x.shape[0], self.count + 1, x.shape[2])
        y = y.scatter_reduce(1, part, x, "amax" if self.how == "max" else "mean", include_self=False)
        return y[:, : self.count], State()
