"""Any parts one after another, called as one layer is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from recurra import check
from recurra.contract import Layer
from recurra.state import State


class Chain(nn.Sequential):
    """Parts in a row, with one flat state: `y, state = chain(x, state, resets=..., lengths=...)`.

    A part with an `initial_state` is called as a layer: backbones, layers, pools, inlets whose steps are others than
    those of x. All others are plain modules that look at each step by itself, such as `torch.nn.Embedding`, an
    activation, `recurra.Linear`. So a chain cuts, streams, packs and pads as its parts do.

    Args:
        parts: in order, as for `torch.nn.Sequential`; their names begin the names of the state.
    """

    def initial_state(self, batch: int) -> State:
        """The state before the first time step."""
        state, like = State(), check.representative(self)
        for name, part in self.named_children():
            if _is_layer(part):
                state |= start(part, batch, like).prefixed(name)
        return state

    def forward(
        self,
        x: Any,
        state: Mapping[str, Tensor] | None = None,
        *,
        resets: Tensor | None = None,
        lengths: Tensor | None = None,
        engine: str = "auto",
    ) -> tuple[Tensor, State]:
        """What the last part gives, [B, T, ...], zero in the padding, and the state after the last step.

        Args:
            x: what the first part reads, [B, T, ...].
            state, resets, lengths, engine: as for a layer.

        Raises InputError if an argument does not fit a part.
        """
        names = [name for name, part in self.named_children() if _is_layer(part)]
        parts = check.parts("this chain", state, names or [""])
        carried = {} if parts is None else dict(zip(names, parts, strict=False))
        after = State()
        if isinstance(x, Tensor):
            resets, lengths = check.resets(resets, x), check.lengths(lengths, x)
            x = within(x, lengths)
        for name, part in self.named_children():
            if not _is_layer(part):
                x = within(part(x), lengths)
                continue
            x, new = part(x, carried.get(name), resets=resets, lengths=lengths, engine=engine)
            after |= State(new).prefixed(name)
            if isinstance(part, Retimed):
                resets, lengths = part.retimed(resets, lengths)
        return x, after


class Retimed(nn.Module):
    """A part of a chain whose steps are others than those it reads."""

    def retimed(self, resets: Tensor | None, lengths: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """Where its sequences begin [B, T'] and how long they are [B], of those that it reads."""
        raise NotImplementedError


def _is_layer(part: nn.Module) -> bool:
    return hasattr(part, "initial_state")


def start(part: Any, batch: int, like: Tensor | None) -> State:
    """The state of a part before the first time step; where it has no parameters, of the type of `like`."""
    return part.initial_state(batch, like) if isinstance(part, Layer) else part.initial_state(batch)


def within(x: Tensor, lengths: Tensor | None) -> Tensor:
    """x [B, T, ...] with zeros, selected, behind the ends of sequences: what is not finite there reaches nothing."""
    if lengths is None:
        return x
    there = torch.arange(x.shape[1], device=x.device) < lengths[:, None]
    return torch.where(there[(..., *[None] * (x.dim() - 2))], x, torch.zeros_like(x))


def at_end(y: Tensor, lengths: Tensor | None) -> Tensor:
    """Of y [B, T, ...] the last step before the padding, [B, ...]; zeros where there is none."""
    if not y.shape[1]:
        return y.new_zeros(y.shape[0], *y.shape[2:])
    if lengths is None:
        return y[:, -1]
    last = y[torch.arange(len(y), device=y.device), (lengths - 1).clamp(min=0)]
    return torch.where((lengths > 0)[(..., *[None] * (y.dim() - 2))], last, torch.zeros_like(last))
