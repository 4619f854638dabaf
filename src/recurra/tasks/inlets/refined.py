"""Readings of one sequence again and again, each from where the one before ended."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from recurra import options
from recurra.contract import Layer
from recurra.errors import InputError
from recurra.models.stacked import reversal, take
from recurra.state import State


class Refined(nn.Module):
    """Layers that all read x [B, T, width], each from the last state of the one before, to what all say, [B, T, D];
    with `bidirectional` each direction so for itself. A pool of it is a pool of each layer.

    Source: Sentence Embeddings in NLI with Iterative Refinement Encoders, Talman, Yli-Jyrä, Tiedemann, 2019,
    arXiv:1808.08762.

    Args:
        make: builds one layer for an input width.
        depth: how many read it.
    """

    def __init__(self, make: Callable[[int], Layer], width: int, depth: int = 3, bidirectional: bool = False):
        super().__init__()
        options.function("make", make)
        options.flag("bidirectional", bidirectional)
        options.count("depth", depth, options.LAYERS)
        self.ahead = nn.ModuleList(make(width) for _ in range(depth))
        self.back = nn.ModuleList(make(width) for _ in range(depth if bidirectional else 0))
        self.output_width = sum(layer.output_width for layer in (*self.ahead, *self.back))

    def initial_state(self, batch: int) -> State:  # noqa: ARG002
        """Nothing is remembered."""
        return State()

    def forward(
        self,
        x: Tensor,
        state: Mapping[str, Tensor] | None = None,
        *,
        resets: Tensor | None = None,
        lengths: Tensor | None = None,
        engine: str = "auto",
    ) -> tuple[Tensor, State]:
        """As `Layer.forward`. Raises InputError if this is not the whole of one sequence in each row."""
        if state is not None or resets is not None:
            raise InputError(
                "state or resets was given to a refined reading, which needs the whole of one sequence in each row"
            )
        told = _readings(self.ahead, x, lengths, engine)
        if len(self.back):
            order = reversal(x, lengths)
            told += [take(y, order) for y in _readings(self.back, take(x, order), lengths, engine)]
        return torch.cat(told, -1), State()


def _readings(layers: nn.ModuleList, x: Tensor, lengths: Tensor | None, engine: str) -> list[Tensor]:
    state, told = None, []
    for layer in layers:
        y, state = layer(x, state, lengths=lengths, engine=engine)
        told.append(y)
    return told
