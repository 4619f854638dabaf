"""Softmax attention of many queries at once, each over the newest few of the entries up to its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import pad, scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from recurra.engines.gate import is_transformed

BLOCK = 256
"""Queries whose scores are held at once where they cannot be left to one call of PyTorch."""

Bias = Callable[[int, int, int], Tensor]
"""From a block of queries, [begin, end), and its first entry, to what is added to its scores: [B, H, end - begin, ...].
"""

Read = Callable[[Tensor, Tensor, Tensor, Tensor, float], Tensor]
"""From queries, keys and values of as many heads, what is added to scores, and their scale, to what is read."""


@dataclass(frozen=True)
class Front:
    """Pairs in front of all entries, read by queries of their own."""

    q: Tensor
    """[B, H, T, K]"""
    k: Tensor
    """[B, L, P, K]"""
    v: Tensor
    """[B, L, P, V]"""
    visible: Tensor
    """[B, T, P], which of them a query sees."""


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    seen: Tensor,
    *,
    whole: bool,
    window: int | None = None,
    bias: Bias | None = None,
    scale: float | None = None,
    front: Front | None = None,
    read: Read | None = None,
) -> Tensor:
    """What queries read: [B, H, T, V].

    A query that sees a query, key or value that is not finite reads NaN; no other query takes notice.

    Args:
        q: [B, H, T, K]. Query t has entry N - T + t.
        k, v: [B, L, N, ...]; H / L queries share an entry.
        seen: [B, T], how many entries each query sees, its own included: the newest ones up to its own.
        whole: each query sees all entries up to its own, and N = T.
        window: the most that any query sees.
        scale: of the products of queries and keys, by default 1 / sqrt(K).
        front: what queries see besides the entries.
        read: how, if it is not softmax attention; queries may be of any size then.
    """
    time, carried = q.shape[2], k.shape[2] - q.shape[2]
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    stop = carried + 1 + torch.arange(time, device=q.device).expand_as(seen)
    (k, v), entries_fine = _cleaned(k, v)
    seen_fine = all_fine(entries_fine, stop - seen, stop)
    if front is not None:
        (first_k, first_v), first_fine = _cleaned(front.k, front.v)
        seen_fine = seen_fine & (first_fine[:, :, None] | ~front.visible[:, None]).all(-1)
        front = Front(torch.where(front.q.isfinite(), front.q, 0), first_k, first_v, front.visible)
    fine = q.isfinite().all(-1) & seen_fine.repeat_interleave(q.shape[1] // k.shape[1], 1)
    q = torch.where(q.isfinite(), q, 0)
    if whole and bias is None and front is None and read is None and (window is None or window >= time):
        y = _attention(q, k, v, is_causal=True, scale=scale)
    else:
        y = _in_blocks(q, k, v, stop, seen, window, bias, scale, front, read)
    return torch.where(fine[..., None], y, float("nan"))


def _cleaned(k: Tensor, v: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """Keys and values with zeros for entries that are not finite, and which are, [B, L, N]."""
    fine = k.isfinite().all(-1) & v.isfinite().all(-1)
    return (torch.where(fine[..., None], k, 0), torch.where(fine[..., None], v, 0)), fine


def _attention(q: Tensor, k: Tensor, v: Tensor, **how: Any) -> Tensor:
    if is_transformed():  # the fast kernels have no rule for vmap
        with sdpa_kernel(SDPBackend.MATH):
            return scaled_dot_product_attention(q, k, v, enable_gqa=True, **how)
    return scaled_dot_product_attention(q, k, v, enable_gqa=True, **how)


def all_fine(fine: Tensor, first: Tensor, stop: Tensor) -> Tensor:
    """Whether all entries in [first, stop) [B, T] are, by fine [B, L, N]: [B, L, T]."""
    bad = pad((~fine).cumsum(-1), (1, 0))
    shape = (*bad.shape[:2], first.shape[1])
    return bad.gather(2, stop[:, None].expand(shape)) == bad.gather(2, first[:, None].expand(shape))


def _in_blocks(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    stop: Tensor,
    seen: Tensor,
    window: int | None,
    bias: Bias | None,
    scale: float,
    front: Front | None,
    read: Read | None,
) -> Tensor:
    time, carried = q.shape[2], k.shape[2] - q.shape[2]

    def block(begin: int, end: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        last = carried + end
        first = 0 if window is None else max(0, carried + begin + 1 - window)
        place = torch.arange(first, last, device=q.device)
        upto, count = stop[:, begin:end, None], seen[:, begin:end, None]
        mask = ((place < upto) & (place >= upto - count))[:, None]
        if bias is not None:
            mask = torch.where(mask, bias(begin, end, first).to(q.dtype), float("-inf"))
        part = q[:, :, begin:end], k[:, :, first:last], v[:, :, first:last]
        if front is not None:
            part, mask = _behind(front, begin, end, *part, mask)
        if read is not None:
            k, v = (entry.repeat_interleave(q.shape[1] // entry.shape[1], 1) for entry in part[1:])
            return read(part[0], k, v, mask if bias is not None else torch.where(mask, 0.0, float("-inf")), scale)
        return _attention(*part, attn_mask=mask, scale=scale)

    if time <= BLOCK:
        return block(0, time, q, k, v)
    # Each block is computed again for its gradient: what is kept in between is linear in time.
    options: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}
    begins = range(0, time, BLOCK)
    return torch.cat([checkpoint(block, t, min(t + BLOCK, time), q, k, v, **options) for t in begins], 2)


def _behind(
    front: Front, begin: int, end: int, q: Tensor, k: Tensor, v: Tensor, mask: Tensor
) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
    """Queries, keys, values and mask of a block of queries with the pairs of `front` among the entries.

    Both kinds of queries lie side by side, each before the zeros of what the other kind asks.
    """
    size, visible = q.shape[-1], front.visible[:, None, begin:end]
    k = torch.cat([pad(front.k, (size, 0)), pad(k, (0, size))], 2)
    q, v = torch.cat([q, front.q[:, :, begin:end]], -1), torch.cat([front.v, v], 2)
    return (q, k, v), torch.cat([visible.expand(-1, mask.shape[1], -1, -1), mask], -1)
