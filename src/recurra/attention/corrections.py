"""Values that are corrected by what attention reads of those before them, for all time steps at once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from recurra.attention.softmax import BLOCK, all_fine

CHUNK = 64
"""Time steps whose corrections by each other are one triangular system."""


def before(scores: Tensor, seen: Tensor) -> Tensor:
    """softmax along the last axis over the entries `seen`; zeros where there are none."""
    some = seen | ~seen.any(-1, keepdim=True)
    return torch.where(seen, torch.softmax(torch.where(some, scores, float("-inf")), -1), 0)


def corrected(q: Tensor, keys: Tensor, held: Tensor, v: Tensor, b: Tensor, position: Tensor, scale: float) -> Tensor:
    """u_t = v_t - b_t sum_i softmax_i(scale q_t . k_i) u_i over the entries before t of its sequence: [B, H, T, V].

    NaN where anything it is made of is not finite.

    Args:
        q, v: [B, H, T, ...].
        keys: [B, H, S + T, K].
        held: [B, H, S, V], u of the entries carried in.
        b: [B, H, T].
        position: [B, T], how many entries there are before each time step.
    """
    time, carried = v.shape[2], held.shape[2]
    new = v.isfinite().all(-1) & q.isfinite().all(-1) & b.isfinite() & keys[:, :, carried:].isfinite().all(-1)
    old = held.isfinite().all(-1) & keys[:, :, :carried].isfinite().all(-1)
    entries = torch.cat([old, new], 2)
    stop = carried + 1 + torch.arange(time, device=v.device).expand_as(position)
    fine = all_fine(entries, stop - position - 1, stop)
    q, v, b = (torch.where(new.reshape(*new.shape, *[1] * (x.dim() - 3)), x, 0) for x in (q, v, b))
    keys, held = torch.where(entries[..., None], keys, 0), torch.where(old[..., None], held, 0)

    def chunk(begin: int, end: int, q: Tensor, keys: Tensor, v: Tensor, b: Tensor, *known: Tensor) -> Tensor:
        own = carried + torch.arange(begin, end, device=v.device)[:, None]
        place = torch.arange(carried + end, device=v.device)
        seen = ((place < own) & (place >= own - position[:, begin:end, None]))[:, None]
        weights = b[:, :, begin:end, None] * before(q[:, :, begin:end] @ keys[:, :, : carried + end].mT * scale, seen)
        *earlier, among = weights.split([u.shape[2] for u in known] + [end - begin], -1)
        rest = v[:, :, begin:end] - sum(w @ u for w, u in zip(earlier, known, strict=True))
        return torch.linalg.solve_triangular(among, rest, upper=False, unitriangular=True)

    known = [held]
    how: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}
    for begin in range(0, max(time, 1), CHUNK):
        end, given = min(begin + CHUNK, time), (q, keys, v, b, *known)
        # Each chunk is computed again for its gradient: what is kept in between is linear in time.
        known.append(chunk(begin, end, *given) if time <= BLOCK else checkpoint(chunk, begin, end, *given, **how))
    return torch.where(fine[..., None], torch.cat(known[1:], 2), float("nan"))
