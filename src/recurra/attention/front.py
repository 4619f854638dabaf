"""Pairs in front of a window: the first time steps of a sequence, which stay when the window has left them behind."""

from __future__ import annotations

import torch
from torch import Tensor

from recurra.attention import cache
from recurra.attention.call import Call

SINKS = ("sink_keys", "sink_values")
"""Names of their states, [B, L, N, ...]: the first N time steps of each sequence, zeros for those still to come."""


Pairs = tuple[Tensor, Tensor, Tensor]
"""Keys and values [B, L, P, ...], and which of them each time step of a call sees, [B, T, P]."""


def sinks(call: Call, k: Tensor, v: Tensor, window: int) -> tuple[Pairs, dict[str, Tensor]]:
    """The first time steps of all sequences that a call holds, as time steps see them behind their windows, and the new
    states.

    Args:
        k, v: [B, T, L, ...].
    """
    size, time = call.state[SINKS[0]].shape[2], k.shape[1]
    steps, place = torch.arange(time, device=k.device), torch.arange(size, device=k.device)
    start = steps - call.position  # of each time step's sequence: before 0 where that was carried in
    carried = (place < -start[..., None]) & (place <= (call.position - window)[..., None])
    at = cache.chosen((call.position < size) & (steps < call.ends[:, None]))
    new = (at[:, None] >= start[..., None]) & (at[:, None] <= (steps - window)[:, None])
    entries = [cache.extend(call.state[name], part) for name, part in zip(SINKS, (k, v), strict=True)]
    index = torch.cat([place.expand(len(at), -1), size + at.clamp(max=time - 1)], 1)
    keys, values = (cache.pick(part, index) for part in entries)
    return (keys, values, torch.cat([carried, new], -1)), _last(call, entries, place)


def _last(call: Call, entries: list[Tensor], place: Tensor) -> dict[str, Tensor]:
    """The states, from those carried in and all time steps: [B, L, N + T, ...] each."""
    begin, there = call.ends - call.last, place < call.last[:, None]
    step = begin[:, None] + place
    index = torch.where((step < 0) | ~there, place, len(place) + step)
    there = there | (begin < 0)[:, None]
    return {
        name: torch.where(cache.spread(there, part.dim()), cache.pick(part, index), 0)
        for name, part in zip(SINKS, entries, strict=True)
    }
