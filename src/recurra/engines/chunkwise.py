"""Matrix memories a chunk of C time steps at a time, as matrix products, in PyTorch operations on any device.

A recurrence of the family

    S_t = S_{t-1} diag(a_t) (I - beta_t k_t k_t^T) + beta_t v_t k_t^T,    o_t = S_t q_t    (S: [V, K]),

or of the one without correction, S_t = S_{t-1} diag(a_t) + v_t k_t^T, says so by a method `as_delta_rule`, which brings
what its `step` reads into this form (see `recurra.problem.DeltaRule`). With S the state before a chunk, a_{i..j} the
product of the decays after step j up to step i, and everything row by row in matrices [C, ...]:

    U = (I + L)^{-1} (beta V - beta K_in S^T),    L_ij = beta_i sum_K k_i k_j a_{i..j}  for j < i,
    O = Q_in S^T + P U,                           P_ij = sum_K q_i k_j a_{i..j}         for j <= i,
    S after the chunk = S diag(a_{C..0}) + U^T K_out,

where "in" scales row i by a_{i..0} and "out" row j by a_{C..j}; u_j is what step j really writes (the WY representation
of the product of I - beta k k^T), and without the correction it is v_j. All but the state is done for all chunks at
once. Decays are sums of logarithms, in float64, and no exponent is ever positive, so they do not overflow.

A matrix product multiplies by zero where a loop would select. So what is not finite is taken out first, and every
output of its sequence from there to the next reset is NaN. A memory that overflows without help from its inputs spoils
the rest of its own sequence, and the chunk it does so in.

Sources: Parallelizing Linear Transformers with the Delta Rule over the Sequence Length, Yang et al., 2024,
arXiv:2406.06484; Gated Delta Networks, Yang, Kautz, Hatamizadeh, 2024, arXiv:2412.06464; Gated Linear Attention
Transformers with Hardware-Efficient Training, Yang et al., 2023, arXiv:2312.06635, which divides a chunk once for
decays per key; here it is halved again and again (`_halved`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from recurra.engines import loop
from recurra.engines.associative import scan
from recurra.engines.gate import hidden, hindrance
from recurra.engines.rates import Estimate, current
from recurra.problem import DeltaRule, Problem, Rollout, cast

CHUNK = 32
"""Time steps in a chunk, a power of two; fewer if there are fewer."""
LOWEST = -1000.0
"""The logarithm of a decay that counts as zero: its exponential is zero in float64."""


def refuses(problem: Problem) -> str | None:
    """The reason why this problem has no chunkwise form, or None."""
    if problem.step.as_delta_rule is None:
        return "its step is not known to be a delta rule; a recurrence that is one says so by a method as_delta_rule"
    if reason := hidden(problem.tensors()) or hindrance(problem.tensors()):
        return reason
    if problem.resets is not None and any(bool(value.any()) for value in problem.start.values()):
        return "a reset selects a start state that is not zero"
    return None


def estimate(problem: Problem) -> Estimate:
    """What a run forward is expected to take: some passes over [C, C] and [C, K] per chunk, and its products."""
    rates, size = current(), sum(t[0].numel() for t in problem.start.values()) // problem.lanes
    width = math.isqrt(size) + 1
    steps = problem.batch * problem.time * problem.lanes
    passes = steps * (6 * CHUNK + 12 * width) * rates.element
    products = steps * (4 * CHUNK * width + 4 * size) * rates.instruction / 8
    seconds = passes + products + (60 + 8 * problem.time / CHUNK) * rates.operation
    return Estimate(seconds, 4 * steps * (4 * CHUNK + 8 * width + size // CHUNK))


def run(problem: Problem) -> Rollout:
    """All time steps, chunk by chunk; differentiable once by autograd. Only after `refuses` has given None."""
    if problem.batch * problem.time == 0:
        return loop.run(problem)
    valid = None
    if problem.lengths is not None:
        valid = torch.arange(problem.time, device=problem.device) < problem.lengths[:, None]
    resets = problem.resets if problem.resets is None or valid is None else problem.resets & valid
    rule, spoilt = _finite(_rule_of(problem, valid), resets)
    phase = None
    if rule.angle is not None:
        rule, phase = _unturned(rule)
    o, S = _rollout(rule, resets, problem.time)
    if phase is not None:
        S = _turn(S, phase[:, -1][:, :, None])
    if spoilt is not None:
        outputs, last = spoilt
        o, S = torch.where(outputs[..., None], torch.nan, o), torch.where(last[..., None, None], torch.nan, S)
    states, y = rule.result(o, S) if rule.result else (S, o)
    if valid is not None:
        y = torch.where(_like(valid, y), y, 0)
    states = states if isinstance(states, tuple) else (states,)
    return Rollout(cast(y, problem.dtype), dict(zip(problem.step.names, states, strict=True)))


# --- from problem to delta rule -----------------------------------------------------------------------------------
def _rule_of(problem: Problem, valid: Tensor | None) -> DeltaRule:
    """The problem in the family's terms, in the compute dtype, all of T long, standing still outside `valid`."""
    dtype, step = problem.compute_dtype, problem.step
    if dtype != problem.dtype:
        step = step.bind({name: cast(weight, dtype) for name, weight in step.weights.items()})
    inputs = {}
    for name, entry in problem.inputs.items():
        t = cast(entry.tensor, dtype)
        t = t if entry.per_lane else t.unsqueeze(2 if entry.per_time else 0)
        inputs[name] = t if entry.per_time else t[None, None]
    assert step.as_delta_rule is not None
    rule = step.as_delta_rule(*(problem.state[name] for name in step.names), **inputs)
    parts: dict[str, Any] = {n: t.expand(-1, problem.time, *t.shape[2:]) for n, t in _per_time(rule).items()}
    if rule.log_decay is not None:
        parts["log_decay"] = parts["log_decay"].clamp(min=LOWEST)
    if valid is not None:
        parts = {name: torch.where(_like(valid, t), t, 0) for name, t in parts.items()}
    return replace(rule, **parts)


def _per_time(rule: DeltaRule) -> dict[str, Any]:
    """What a rule has of tensors with a time axis."""
    parts = {name: getattr(rule, name) for name in ("q", "k", "v", "beta", "log_decay", "angle")}
    return {name: t for name, t in parts.items() if t is not None}


def _finite(rule: DeltaRule, resets: Tensor | None) -> tuple[DeltaRule, tuple[Tensor, Tensor] | None]:
    """The rule with 0 in place of NaN and Inf, and what these spoil: outputs [B, T, H] and the last state [B, H]."""
    parts = _per_time(rule)
    if bool(torch.stack([t.detach().sum() for t in (rule.S, *parts.values())]).isfinite().all()):
        return rule, None
    (B, H), T = rule.S.shape[:2], rule.v.shape[1]
    bad = {name: ~t.isfinite() if t.dim() == 3 else ~t.isfinite().all(-1) for name, t in parts.items()}
    unread = bad.pop("q")
    written = torch.stack([flags.expand(B, T, H) for flags in bad.values()]).any(0)
    # Spoilt is what comes after something bad, before the next reset. What comes in with the state is at time -1.
    t = torch.arange(T, device=written.device)[None, :, None]
    first = torch.where(rule.S.isfinite().flatten(2).all(2), -2, -1)[:, None]
    last_bad = torch.maximum(torch.where(written, t, -2).cummax(1).values, first)
    since = torch.full_like(t, -1) if resets is None else torch.where(resets[..., None], t, -1).cummax(1).values
    spoilt = last_bad >= since
    clean: dict[str, Any] = {name: torch.where(t.isfinite(), t, 0) for name, t in (parts | {"S": rule.S}).items()}
    return replace(rule, **clean), (spoilt | unread, spoilt[:, -1])


def _unturned(rule: DeltaRule) -> tuple[DeltaRule, Tensor]:
    """The rule seen from a frame that turns with the state, and the angles [B, T, H, K/2] it has turned by."""
    assert rule.angle is not None
    phase = scan(torch.add, rule.angle.to(_wide(rule.angle)))
    return replace(rule, q=_turn(rule.q, -phase), k=_turn(rule.k, -phase)), phase


def _turn(x: Tensor, angle: Tensor) -> Tensor:
    """Key i and key K/2 + i as a point of the plane, turned by `angle` i."""
    a, b = x.chunk(2, -1)
    cos, sin = torch.cos(angle).to(x.dtype), torch.sin(angle).to(x.dtype)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


def _like(flags: Tensor, t: Tensor) -> Tensor:
    """[B, T] with as many axes as t."""
    return flags.view(*flags.shape, *[1] * (t.dim() - 2))


def _wide(t: Tensor) -> torch.dtype:
    """The type that sums of logarithms and angles are taken in."""
    return t.dtype if t.device.type == "mps" else torch.float64


# --- chunks -------------------------------------------------------------------------------------------------------
def _rollout(rule: DeltaRule, resets: Tensor | None, time: int) -> tuple[Tensor, Tensor]:
    """o [B, T, H, V] and the last state [B, H, V, K] of a finite rule without turns."""
    size = min(CHUNK, 1 << (time - 1).bit_length())
    q, k, v = (_chunks(t, size) for t in (rule.q, rule.k, rule.v))
    decay = Decay.of(rule.log_decay, resets, size, q)
    if rule.beta is None:
        states = _sums(v.mT @ _scaled(k, decay.until_end), decay.through, rule.S)
        o, S = _scaled(q, decay.since_start) @ states[:-1].mT + decay.between(q, k)[..., 0, :, :] @ v, states[-1]
    else:
        o, S = _corrected(q, k, v, _chunks(rule.beta[..., None], size), decay, rule.S)
    return o.permute(1, 0, 3, 2, 4).flatten(1, 2)[:, :time], S


def _corrected(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, decay: Decay, S: Tensor) -> tuple[Tensor, Tensor]:
    """o [N, B, H, C, V] and the last state with the delta rule's correction. Keys and queries go side by side."""
    lead = (len(v), *S.shape[:2])
    q, k, v, beta = (t.expand(*lead, *t.shape[3:]) for t in (q, k, v, beta))
    both, since = torch.cat([k, q], -2), beta.new_ones(1) if decay.since_start is None else decay.since_start
    both_in = both * torch.cat(torch.broadcast_tensors(beta * since, since), -2)
    L, P = decay.between(both, k).unbind(3)
    parts = (beta * L, P, beta * v, both_in, _scaled(k, decay.until_end), decay.through)
    flat = (None if t is None else t.expand(*lead, *t.shape[3:]).flatten(1, 2) for t in parts)
    o, S = Chunks.apply(*flat, S.flatten(0, 1))
    return o.unflatten(1, lead[1:]), S.unflatten(0, lead[1:])


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
            logs = _chunks(log_decay, size).to(_wide(log_decay))
            logs = torch.ones(size, size, dtype=logs.dtype, device=logs.device).tril() @ logs
        sequence = None if resets is None else _chunks(resets[..., None], size).cumsum(-1)
        return Decay(logs, sequence, size, like.dtype, like.device)

    def between(self, rows: Tensor, k: Tensor) -> Tensor:
        """sum_K x_i k_j a_{i..j} for j <= i, else 0, for each x of `rows` [N, B, H, G C, K]: [N, B, H, G, C, C]."""
        split = (rows.shape[-2] // self.size, self.size)
        if self.logs is None:
            return torch.where(self._related, (rows @ k.mT).unflatten(-2, split), 0)
        if self.logs.shape[-1] == 1:
            exponent = (self.logs - self.logs.mT).to(self.dtype).unsqueeze(-3)
            return (rows @ k.mT).unflatten(-2, split) * torch.where(self._related, exponent, -torch.inf).exp()
        scores = _halved(rows.unflatten(-2, split), k.unsqueeze(-3), self.logs.unsqueeze(-3))
        return scores if self.sequence is None else torch.where(self._related, scores, 0)

    @cached_property
    def _related(self) -> Tensor:
        """Whether step j reaches step i: j <= i, and no reset in between. [C, C] or [N, B, 1, 1, C, C]."""
        earlier = torch.ones(self.size, self.size, dtype=torch.bool, device=self.device).tril()
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

    A later half meets an earlier one at the border between them: both exponents are then sums of logarithms.
    """
    size = a.shape[-2]
    if size == 1:
        return (a * b).sum(-1, keepdim=True)
    halves = [t.unflatten(-2, (2, size // 2)) for t in (a, b, logs)]
    upper, lower = _halved(*halves).unbind(-3)
    (_, a), (b, _), (early, late) = (t.unbind(-3) for t in halves)
    border = early[..., -1:, :]
    cross = (a * (late - border).to(a.dtype).exp()) @ (b * (border - early).to(b.dtype).exp()).mT
    upper, lower = pad(upper, (0, size // 2)), torch.cat(torch.broadcast_tensors(cross, lower), -1)
    return torch.cat([upper, lower], -2)


class Chunks(torch.autograd.Function):
    """The state from chunk to chunk, and what is read of it, for M matrices side by side:
    U = (I + L)^{-1} (v - K_in S^T),  o = Q_in S^T + P U,  S after the chunk = S through + U^T k_out."""

    @staticmethod
    def forward(ctx, L, P, v, both_in, k_out, through, S):
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
            torch.baddbmm(kept, U[n].mT, k_out[n], out=states[n + 1])
        ctx.save_for_backward(inverse, P, U, states, both_in, k_out, through)
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
        return (dreads @ U.mT).tril(-1), do @ U.mT, -dreads, dboth_in, dk_out, dthrough, after[0]
