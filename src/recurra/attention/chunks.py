"""The two halves of RAT for all time steps at once: a gated recurrence within chunks, attention across them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from recurra.attention.softmax import all_fine


def within(gate: Tensor, new: Tensor, phase: Tensor, chunk: int, before: Tensor) -> Tensor:
    """h_t = g_t h_{t-1} + (1 - g_t) new_t, from zero where a chunk begins.

    By doubling, log2(chunk) times. Returns `before` and all h: [B, H, 1 + T, K].

    Args:
        gate, new: [B, H, T, K].
        phase: [B, T], time steps since the chunk began.
        before: [B, H, K], h before the first time step.
    """
    h = torch.cat([before[:, :, None], (1 - gate) * new], 2)
    decay, phase = pad(gate, (0, 0, 1, 0)), pad(phase, (1, 0))
    reach = 1
    while reach < chunk and reach < h.shape[2]:
        # h_t sums up `reach` time steps, or all of its chunk, and decay_t is the product of their gates.
        same = (phase >= reach)[:, None, :, None]
        h = h + decay * torch.where(same, delayed(h, reach), 0)
        decay = decay * torch.where(same, delayed(decay, reach), 0)
        reach *= 2
    return h


def delayed(x: Tensor, steps: int) -> Tensor:
    """x [B, H, T, K], `steps` time steps later; zero before."""
    return pad(x, (0, 0, steps, 0))[:, :, : x.shape[2]]


def across(q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor, stop: Tensor, seen: Tensor) -> Tensor:
    """What queries read of their own key and value, all [B, H, T, K], and of the `seen` [B, T] entries before `stop`.

    As in `softmax.attend`, one that sees what is not finite reads NaN, and no other takes notice.

    Args:
        keys, values: [B, H, N, K].
        stop: [B, T].
    """
    entries_fine = keys.isfinite().all(-1) & values.isfinite().all(-1)
    fine = (q + k + v).isfinite().all(-1) & all_fine(entries_fine, stop - seen, stop)
    q, k, v = (torch.where(fine[..., None], part, 0) for part in (q, k, v))
    keys, values = (torch.where(entries_fine[..., None], part, 0) for part in (keys, values))
    place = torch.arange(keys.shape[2], device=q.device)
    visible = (place < stop[..., None]) & (place >= (stop - seen)[..., None])
    scores = torch.where(visible[:, None], q @ keys.transpose(2, 3), float("-inf"))
    scores = torch.cat([scores, (q * k).sum(-1, keepdim=True)], -1) * q.shape[-1] ** -0.5
    weights = torch.softmax(scores, -1)
    y = weights[..., :-1] @ values + weights[..., -1:] * v
    return torch.where(fine[..., None], y, float("nan"))
