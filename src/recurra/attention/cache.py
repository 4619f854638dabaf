"""The growing state: where each time step stands in its sequence, and which entries are kept, in every row."""

from __future__ import annotations

import torch
from torch import Tensor


def positions(before: Tensor, time: int, resets: Tensor | None, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
    """How many time steps of its own sequence lie before each time step, [B, T], and behind the end of each row, [B].

    Args:
        before: [B] int64, time steps before the call.
    """
    steps = torch.arange(time, device=before.device).expand(before.shape[0], time)
    position = before[:, None] + steps
    if resets is not None:
        start = torch.where(resets, steps, -1).cummax(1).values
        position = torch.where(start >= 0, steps - start, position)
    after = torch.cat([before[:, None], position + 1], 1)
    ends = torch.full_like(before, time) if lengths is None else lengths
    return position, after.gather(1, ends[:, None])[:, 0]


def extend(entries: Tensor, new: Tensor) -> Tensor:
    """Entries [B, L, S, ...] followed by those of T time steps, [B, T, L, ...]: [B, L, S + T, ...]."""
    return torch.cat([entries, new.transpose(1, 2).to(entries.dtype)], 2)


def chosen(made: Tensor) -> Tensor:
    """Which time steps are `made` [B, T], in their order, then T: [B, S], S the most that a row has."""
    time = made.shape[1]
    return torch.where(made, torch.arange(time, device=made.device), time).sort(1).values[:, : most(made.sum(1))]


def append(entries: Tensor, new: Tensor, made: Tensor) -> Tensor:
    """Entries [B, L, S, ...] followed by those of `new` [B, L, T, ...] that are `made` [B, T], then zeros."""
    time, steps = made.shape[1], chosen(made)
    picked = pick(new, steps.clamp(max=time - 1))
    return torch.cat([entries, torch.where(spread(steps < time, new.dim()), picked, 0).to(entries.dtype)], 2)


def most(count: Tensor) -> int:
    """The largest of `count` [B], 0 if there are no rows."""
    return int(count.max()) if count.numel() else 0


def newest(entries: Tensor, stop: Tensor, count: Tensor) -> Tensor:
    """Of every row the newest `count` [B] of the entries before `stop` [B], right-aligned: [B, L, max(count), ...].

    What lies in front of them is zero.

    Args:
        entries: [B, L, N, ...], oldest first.
    """
    keep, size = most(count), entries.shape[2]
    if bool((stop == size).all() and (count == keep).all()):
        return entries if keep == size else entries[:, :, size - keep :].clone()
    index = stop[:, None] - keep + torch.arange(keep, device=entries.device)
    picked = pick(entries, index.clamp(min=0))
    present = torch.arange(keep, device=entries.device) >= keep - count[:, None]
    return torch.where(spread(present, entries.dim()), picked, 0)


def pick(entries: Tensor, index: Tensor) -> Tensor:
    """Entries [B, L, N, ...] at the places `index` [B, S] of each row: [B, L, S, ...]."""
    shape = (*entries.shape[:2], index.shape[1], *entries.shape[3:])
    return entries.gather(2, spread(index, entries.dim()).expand(shape))


def spread(per_entry: Tensor, dim: int) -> Tensor:
    """[B, S] as [B, 1, S, 1, ...] with `dim` axes."""
    return per_entry.reshape(per_entry.shape[0], 1, per_entry.shape[1], *[1] * (dim - 3))
