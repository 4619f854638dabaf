"""Several columns as one sequence, step after step: what is wished, what is seen, what is done."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from recurra.errors import InputError
from recurra.state import State
from recurra.tasks.chain import Retimed


class Interleaved(Retimed):
    """Columns [B, T, ...] of n names to y [B, n T, D]: of each step what every column says, one after the other.

    `y[:, k::n]` is then what stands at the column number k: a model of returns, observations and actions says the next
    action where it has read the observation.

    Source: Decision Transformer, Chen et al., 2021, arXiv:2106.01345; with recurrences, A Large Recurrent Action Model,
    Schmied et al., 2024, arXiv:2410.22391.

    Args:
        columns: names in order, each with the module that makes [B, T, D] of it.
    """

    def __init__(self, columns: Mapping[str, nn.Module]):
        super().__init__()
        if not columns:
            raise InputError("columns is empty; expected names with a module each")
        self.columns = nn.ModuleDict(columns)

    def initial_state(self, batch: int) -> State:  # noqa: ARG002
        """Nothing is remembered."""
        return State()

    def retimed(self, resets: Tensor | None, lengths: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """As `Retimed.retimed`: a sequence begins at its first column."""
        count = len(self.columns)
        if resets is not None:
            resets = torch.stack([resets, *[torch.zeros_like(resets)] * (count - 1)], 2).flatten(1)
        return resets, None if lengths is None else count * lengths

    def forward(
        self,
        x: Mapping[str, Tensor],
        state: Mapping[str, Tensor] | None = None,  # noqa: ARG002
        *,
        resets: Tensor | None = None,  # noqa: ARG002
        lengths: Tensor | None = None,  # noqa: ARG002
        engine: str = "auto",  # noqa: ARG002
    ) -> tuple[Tensor, State]:
        """As `Layer.forward`, of columns by name. Raises InputError if one is missing."""
        if missing := [name for name in self.columns if name not in x]:
            raise InputError(f"x has no column {missing[0]!r}; expected {', '.join(map(repr, self.columns))}")
        told = [module(x[name]) for name, module in self.columns.items()]
        return torch.stack(told, 2).flatten(1, 2), State()
