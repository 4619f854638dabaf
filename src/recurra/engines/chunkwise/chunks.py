"""Chunk by chunk: what is left of one time step at another, what each step really writes, and the state between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import pad

from recurra.engines.chunkwise import fused

CHUNK = 32
"""Steps in a chunk, a power of two; fewer if there are fewer."""

SPAN = 40.0
"""How much of its logarithm a chunk may lose for exponents of both signs to be taken: e^40 is far from the largest
float32, and what it is multiplied with has as many digits as before."""


@dataclass(frozen=True)
class Plain:
    """S' = S_{t-1} diag(exp(log_decay)),  S_t = S' - (S' erase) take^T + v k^T,  o_t = S_t q: finite numbers.

    Tensors are [B, T, L, ...].
    """

    q: Tensor
    """[..., K]"""
    k: Tensor
    """[..., K]"""
    v: Tensor
    """[..., V]"""
    erase: Tensor | None
    """[..., K]; None: nothing is."""
    take: Tensor | None
    """[..., K]; None: k."""
    S: Tensor
    """[B, L, V, K]"""
    log_decay: Tensor | None
    """[...] or [..., K]"""
    resets: Tensor | None
    """[B, T]; a reset selects zeros."""


def rollout(rule: Plain) -> tuple[Tensor, Tensor]:
    """o [B, T, H, V] and the last state [B, H, V, K]."""
    time = rule.v.shape[1]
    size = min(CHUNK, 1 << (time - 1).bit_length())
    q, k, v = (_chunks(t, size) for t in (rule.q, rule.k, rule.v))
    decay = Decay.of(rule.log_decay, rule.resets, size, q)
    if rule.erase is None and fused.runs(q, size):
        o, S = _by_kernels(q, v, [k], decay, rule.S)
    elif rule.erase is None:
        states = _sums(v.mT @ _scaled(k, decay.until_end), decay.through, rule.S)
        o, S = _scaled(q, decay.since_start) @ states[:-1].mT + decay.between(q, k)[0][..., 0, :, :] @ v, states[-1]
    else:
        take = None if rule.take is None else _chunks(rule.take, size)
        o, S = _corrected(q, k, v, _chunks(rule.erase, size), take, decay, rule.S)
    return o.permute(1, 0, 3, 2, 4).flatten(1, 2)[:, :time], S


def _corrected(
    q: Tensor, k: Tensor, v: Tensor, erase: Tensor, take: Tensor | None, decay: Decay, S: Tensor
) -> tuple[Tensor, Tensor]:
    """o [N, B, H, C, V] and the last state where something is erased. What is erased and queries go side by side."""
    lead = (len(v), *S.shape[:2])
    q, k, v, erase = (t.expand(*lead, *t.shape[3:]) for t in (q, k, v, erase))
    both, since = torch.cat([erase, q], -2), decay.since_start
    if fused.runs(q, decay.size):
        return _by_kernels(both, v, [k] if take is None else [take.expand(*lead, *take.shape[3:]), k], decay, S)
    both_in = both if since is None else both * torch.cat([since, since], -2)
    beside, written = None, v
    if take is not None:
        # v is written beside what is taken out: what later steps find of it, and what it leaves in the state.
        found, read = decay.between(both, k)[0].unbind(3)
        beside, written, k = (
            v.mT @ _scaled(k, decay.until_end),
            -found.tril(-1) @ v,
            take.expand(*lead, *take.shape[3:]),
        )
    L, P = decay.between(both, k)[0].unbind(3)
    parts = (L, P, written, both_in, _scaled(k, decay.until_end), decay.through, beside)
    flat = (None if t is None else t.expand(*lead, *t.shape[3:]).flatten(1, 2) for t in parts)
    o, S = Chunks.apply(*flat, S.flatten(0, 1))
    o = o.unflatten(1, lead[1:])
    return o if take is None else o + read @ v, S.unflatten(0, lead[1:])


def _by_kernels(both: Tensor, v: Tensor, keys: list[Tensor], decay: Decay, S: Tensor) -> tuple[Tensor, Tensor]:
    """The same by kernels of our own, which multiply by what is left at each time step, but not of each key."""
    scores = [found.flatten(3, 4) for found in decay.between(both, *keys, strict=True)]
    since, until, through = decay.since_start, decay.until_end, decay.through
    if since is not None and since.shape[-1] > 1:
        both = both * torch.cat([since] * (both.shape[-2] // decay.size), -2)
        keys, since, until = [_scaled(key, until) for key in keys], None, None
    return fused.passed(scores[0], v, both, keys[0], S, since, until, through, *scores[1:], *keys[1:])


def _sums(written: Tensor, through: Tensor | None, S: Tensor) -> Tensor:
    """S_{n+1} = S_n through_n + written_n: all S, [N + 1, B, H, V, K]."""
    states = [S]
    factors: Sequence = [None] * len(written) if through is None else through.unbind(0)
    for x, factor in zip(written.unbind(0), factors, strict=True):
        states.append(states[-1] + x if factor is None else torch.addcmul(x, states[-1], factor))
    return torch.stack(states)


def _chunks(t: Tensor, size: int) -> Tensor:
    """[B, T, H, ...] as chunks [N, B, H, C, ...], the last one filled up with zeros."""
    missing = -t.shape[1] % size
    if missing:
        t = pad(t, (0, 0) * (t.dim() - 2) + (0, missing))
    return t.unflatten(1, (-1, size)).permute(1, 0, 3, 2, *range(4, t.dim() + 1)).contiguous()


def _scaled(x: Tensor, factor: Tensor | None) -> Tensor:
    return x if factor is None else x * factor


@dataclass(frozen=True)
class Decay:
    """What is left of one time step at another, within each chunk."""

    logs: Tensor | None
    """[N, B, H, C, 1 or K]: the sum of the logarithms from the chunk's first step on; None: nothing decays."""
    sequence: Tensor | None
    """[N, B, 1, C]: resets so far in the chunk; None: there are none."""
    size: int
    dtype: torch.dtype
    device: torch.device

    @staticmethod
    def of(log_decay: Tensor | None, resets: Tensor | None, size: int, like: Tensor) -> Decay:
        """From log_decay [B, T, H] or [B, T, H, K] and resets [B, T]."""
        logs = None
        if log_decay is not None:
            log_decay = log_decay[..., None] if log_decay.dim() == 3 else log_decay
            logs = _chunks(log_decay, size).to(wide(log_decay))
            logs = torch.ones(size, size, dtype=logs.dtype, device=logs.device).tril() @ logs
        sequence = None if resets is None else _chunks(resets[..., None], size).cumsum(-1)
        return Decay(logs, sequence, size, like.dtype, like.device)

    def between(self, rows: Tensor, *keys: Tensor, strict: bool = False) -> list[Tensor]:
        """sum_K x_i k_j a_{i..j} for j <= i, else 0, for each x of `rows` [N, B, H, G C, K]: [N, B, H, G, C, C], for
        each k of `keys`.

        With `strict` the first of two x, that of what is erased, has zeros for j = i as well.
        """
        split, related = (rows.shape[-2] // self.size, self.size), self._related
        if strict and split[0] > 1:
            related = torch.cat([related.tril(-1), related], -3)
        if self.logs is not None and self.logs.shape[-1] == 1:
            exponent = (self.logs - self.logs.mT).to(self.dtype).unsqueeze(-3)
            left = torch.where(related, exponent, -torch.inf).exp()
            return [fused.products(rows, k).unflatten(-2, split) * left for k in keys]
        if self.logs is not None and _lost(self.logs) > SPAN:
            rows, logs = rows.unflatten(-2, split), self.logs.unsqueeze(-3)
            return [torch.where(related, _halved(rows, k.unsqueeze(-3), logs), 0) for k in keys]
        if self.logs is not None:
            since, until = _balanced(self.logs, self.dtype)
            rows, keys = rows * torch.cat([since] * split[0], -2), tuple(k * until for k in keys)
        return [torch.where(related, fused.products(rows, k).unflatten(-2, split), 0) for k in keys]

    @cached_property
    def _related(self) -> Tensor:
        """Whether step j reaches step i: j <= i, and no reset in between. [1, C, C] or [N, B, 1, 1, C, C]."""
        earlier = torch.ones(1, self.size, self.size, dtype=torch.bool, device=self.device).tril()
        if self.sequence is None:
            return earlier
        return earlier & (self.sequence[..., None] == self.sequence[..., None, :]).unsqueeze(-3)

    @cached_property
    def since_start(self) -> Tensor | None:
        """What is left of the state before the chunk at each step: [N, B, H, C, 1 or K]; None: all of it."""
        return self._factor(self.logs, None if self.sequence is None else self.sequence == 0)

    @cached_property
    def until_end(self) -> Tensor | None:
        """What is left of each step at the end of the chunk: [N, B, H, C, 1 or K]; None: all of it."""
        logs = None if self.logs is None else self.logs[..., -1:, :] - self.logs
        return self._factor(logs, None if self.sequence is None else self.sequence == self.sequence[..., -1:])

    @property
    def through(self) -> Tensor | None:
        """What is left of the state before the chunk at its end: [N, B, H, 1, 1 or K]; None: all of it."""
        return None if self.since_start is None else self.since_start[..., -1:, :]

    def _factor(self, logs: Tensor | None, reached: Tensor | None) -> Tensor | None:
        factor = None if logs is None else logs.to(self.dtype).exp()
        if reached is None:
            return factor
        return reached[..., None].to(self.dtype) if factor is None else torch.where(reached[..., None], factor, 0)


def _halved(a: Tensor, b: Tensor, logs: Tensor) -> Tensor:
    """sum_K a_i b_j exp(logs_i - logs_j) for j <= i, else 0, over [..., C, K].

    Where little decays, one product of a_i exp(logs_i - middle) and b_j exp(middle - logs_j). Otherwise a later half
    meets an earlier one at the border between them: both exponents are then sums of logarithms.
    """
    size = a.shape[-2]
    if size == 1:
        return (a * b).sum(-1, keepdim=True)
    if _lost(logs) <= SPAN:
        since, until = _balanced(logs, a.dtype)
        return ((a * since) @ (b * until).mT).tril()
    halves = [t.unflatten(-2, (2, size // 2)) for t in (a, b, logs)]
    upper, lower = _halved(*halves).unbind(-3)
    (_, a), (b, _), (early, late) = (t.unbind(-3) for t in halves)
    border = early[..., -1:, :]
    cross = (a * (late - border).to(a.dtype).exp()) @ (b * (border - early).to(b.dtype).exp()).mT
    upper, lower = pad(upper, (0, size // 2)), torch.cat(torch.broadcast_tensors(cross, lower), -1)
    return torch.cat([upper, lower], -2)


def _lost(logs: Tensor) -> float:
    """The most that logarithms [..., C, K] lose from the first step to the last."""
    return float((logs[..., 0, :] - logs[..., -1, :]).detach().max())


def _balanced(logs: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """What is left at each step of what there was at the middle one, and one over that."""
    middle = (logs.shape[-2] - 1) // 2
    since = (logs - logs[..., middle : middle + 1, :]).to(dtype)
    return since.exp(), (-since).exp()


class Chunks(torch.autograd.Function):
    """The state from chunk to chunk, and what is read of it, for M matrices side by side:
    U = (I + L)^{-1} (v - K_in S^T),  o = Q_in S^T + P U,  S after the chunk = S through + U^T k_out + beside."""

    @staticmethod
    def forward(ctx, L, P, v, both_in, k_out, through, beside, S):
        """Tensors [N, M, ...], S [M, V, K] to o [N, M, C, V] and the last S. `both_in` is K_in above Q_in; the diagonal
        of L counts as zero."""
        size = L.shape[-1]
        minus = -torch.eye(size, dtype=L.dtype, device=L.device).expand_as(L)
        inverse = torch.linalg.solve_triangular(L, minus, upper=False, unitriangular=True)
        U, states = torch.empty_like(v), S.new_empty(len(v) + 1, *S.shape)
        reads = v.new_empty(*v.shape[:2], 2 * size, v.shape[-1])
        states[0] = S
        for n in range(len(v)):
            torch.bmm(both_in[n], states[n].mT, out=reads[n])
            torch.bmm(inverse[n], reads[n][:, :size] - v[n], out=U[n])
            kept = states[n] if through is None else states[n] * through[n]
            kept = kept if beside is None else kept + beside[n]
            torch.baddbmm(kept, U[n].mT, k_out[n], out=states[n + 1])
        ctx.save_for_backward(inverse, P, U, states, both_in, k_out, through)
        ctx.is_beside = beside is not None
        o = torch.baddbmm(*(t.flatten(0, 1) for t in (reads[:, :, size:], P, U)))
        return o.view_as(U), states[-1].clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, do, dS):
        """The same chunks from the last to the first."""
        inverse, P, U, states, both_in, k_out, through = ctx.saved_tensors
        size = U.shape[-2]
        dU, dreads = P.mT @ do, U.new_empty(*U.shape[:2], 2 * size, U.shape[-1])
        dreads[:, :, size:] = do
        dboth_in, dk_out, after = torch.empty_like(both_in), torch.empty_like(k_out), torch.empty_like(states)
        after[-1] = dS
        for n in reversed(range(len(U))):
            dU[n].baddbmm_(k_out[n], after[n + 1].mT)
            dreads[n][:, :size] = inverse[n].mT @ dU[n]
            torch.bmm(U[n], after[n + 1], out=dk_out[n])
            torch.bmm(dreads[n], states[n], out=dboth_in[n])
            kept = after[n + 1] if through is None else after[n + 1] * through[n]
            torch.baddbmm(kept, dreads[n].mT, both_in[n], out=after[n])
        dreads = dreads[:, :, :size]
        dthrough = None if through is None else (after[1:] * states[:-1]).sum_to_size(through.shape)
        dbeside = after[1:] if ctx.is_beside else None
        return (dreads @ U.mT).tril(-1), do @ U.mT, -dreads, dboth_in, dk_out, dthrough, dbeside, after[0]


def wide(t: Tensor) -> torch.dtype:
    """The type that sums of logarithms and angles are taken in."""
    return t.dtype if t.device.type == "mps" else torch.float64
