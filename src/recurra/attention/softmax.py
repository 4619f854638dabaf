"""Softmax attention of many queries at once, each over the newest few of the entries up to its own."""

from __future__ import annotations

from collections.abc import Callable
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
    """
    time, carried = q.shape[2], k.shape[2] - q.shape[2]
    stop = carried + 1 + torch.arange(time, device=q.device).expand_as(seen)
    entries_fine = k.isfinite().all(-1) & v.isfinite().all(-1)
    seen_fine = all_fine(entries_fine, stop - seen, stop).repeat_interleave(q.shape[1] // k.shape[1], 1)
    fine = q.isfinite().all(-1) & seen_fine
    q = torch.where(q.isfinite(), q, 0)
    k, v = (torch.where(entries_fine[..., None], part, 0) for part in (k, v))
    if whole and bias is None and (window is None or window >= time):
        y = _attention(q, k, v, is_causal=True, scale=scale)
    else:
        y = _in_blocks(q, k, v, stop, seen, window, bias, scale)
    return torch.where(fine[..., None], y, float("nan"))


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
    scale: float | None,
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
        return _attention(*part, attn_mask=mask, scale=scale)

    if time <= BLOCK:
        return block(0, time, q, k, v)
    # Each block is computed again for its gradient: what is kept in between is linear in time.
    options: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}
    begins = range(0, time, BLOCK)
    return torch.cat([checkpoint(block, t, min(t + BLOCK, time), q, k, v, **options) for t in begins], 2)
