"""Matrix memories a chunk of C time steps at a time, as matrix products, in PyTorch operations on any device.

A recurrence of the family

    S_t = S_{t-1} diag(a_t) (I - beta_t k_t k_t^T) + beta_t v_t k_t^T,    o_t = S_t q_t    (S: [V, K]),

or the one without the correction, S_t = S_{t-1} diag(a_t) + v_t k_t^T, says so by a method `as_delta_rule`, which brings
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

Sources: Parallelizing Linear Transformers with the Delta Rule over Sequence Length, Yang et al., 2024, arXiv:2406.06484;
Gated Delta Networks, Yang, Kautz, Hatamizadeh, 2024, arXiv:2412.06464; Gated Linear Attention Transformers with
Hardware-Efficient Training, Yang et al., 2023, arXiv:2312.06635. Taking the inverse of I + L apart from S, halving a
chunk again and again for decays per key (`Decay._halved`) and the backward pass over chunks (`Writes`) are our own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import pad

from recurra.engines import loop
from recurra.problem import DeltaRule, Problem, Rollout, cast

CHUNK = 32
"""Time steps in a chunk, a power of two; fewer if there are fewer."""
LOWEST = -1000.0
"""The logarithm of a decay that counts as zero: its exponential is zero in float64."""


def refuses(problem: Problem) -> str | None:
    """The reason why this problem has no chunkwise form, or None."""
    if problem.step.as_delta_rule is None:
        return (
            "its step is not known to be a (decaying, linear) delta rule, "
            "S_t = S_{t-1} diag(a_t) (I - beta_t k_t k_t^T) + beta_t v_t k_t^T; "
            "a recurrence that is one says so by a method as_delta_rule"
        )
    if any(torch._C._functorch.is_functorch_wrapped_tensor(entry.tensor) for entry in problem.inputs.values()):
        return "it cannot run inside torch.func transforms"
    if problem.resets is not None and any(bool(value.any()) for value in problem.start.values()):
        return "a reset selects a start state that is not zero"
    return None


def run(problem: Problem) -> Rollout:
    """All time steps, chunk by chunk; differentiable once by autograd. Only after `refuses` has given None."""
    if problem.batch * problem.time == 0:
        return loop.run(problem)
    valid = None
    if problem.lengths is not None:
        valid = torch.arange(problem.time, device=problem.device) < problem.lengths[:, None]
    resets = problem.resets if problem.resets is None or valid is None else problem.resets & valid
    rule = _only(_rule_of(problem), valid)
    rule, spoilt = _finite(rule, resets)
    phase = None
    if rule.angle is not None:
        rule, phase = _unturned(rule)
    o, S = _rollout(rule, resets, problem.time)
    if phase is not None:
        S = _turn(S, phase[:, -1][:, :, None])
    if spoilt is not None:
        o = torch.where(spoilt.outputs[..., None], torch.nan, o)
        S = torch.where(spoilt.state[..., None, None], torch.nan, S)
    states, y = rule.result(o, S) if rule.result else (S, o)
    if valid is not None:
        y = torch.where(_like(valid, y), y, 0)
    states = states if isinstance(states, tuple) else (states,)
    return Rollout(cast(y, problem.dtype), dict(zip(problem.step.names, states, strict=True)))


# --- from problem to delta rule -----------------------------------------------------------------------------------
def _rule_of(problem: Problem) -> DeltaRule:
    """The problem in the family's terms: computed in the compute dtype, with a time axis of full length."""
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
    parts = {name: getattr(rule, name) for name in ("q", "k", "v", "beta", "log_decay", "angle")}
    return replace(rule, **{n: t.expand(-1, problem.time, *t.shape[2:]) for n, t in parts.items() if t is not None})


def _only(rule: DeltaRule, valid: Tensor | None) -> DeltaRule:
    """The rule that leaves the state as it is, in value and phase, outside `valid`; no decay is below `LOWEST`."""
    if rule.log_decay is not None:
        rule = replace(rule, log_decay=rule.log_decay.clamp(min=LOWEST))
    if valid is None:
        return rule
    parts = {name: getattr(rule, name) for name in ("q", "k", "v", "beta", "log_decay", "angle")}
    return replace(rule, **{n: torch.where(_like(valid, t), t, 0) for n, t in parts.items() if t is not None})


@dataclass(frozen=True)
class _Spoilt:
    outputs: Tensor
    """[B, T, H] bool"""
    state: Tensor
    """[B, H] bool"""


def _finite(rule: DeltaRule, resets: Tensor | None) -> tuple[DeltaRule, _Spoilt | None]:
    """The rule without NaN and Inf, and what they spoil; None: there are none."""
    writes = {name: getattr(rule, name) for name in ("k", "v", "beta", "log_decay", "angle")}
    writes = {name: t for name, t in writes.items() if t is not None}
    if bool(torch.stack([t.detach().sum() for t in (rule.q, rule.S, *writes.values())]).isfinite().all()):
        return rule, None
    clean = {name: torch.where(t.isfinite(), t, 0) for name, t in (writes | {"q": rule.q, "S": rule.S}).items()}
    bad, unread = (
        torch.stack(torch.broadcast_tensors(*(~t.isfinite().flatten(3).all(3) if t.dim() > 3 else ~t.isfinite()
                                              for t in tensors))).any(0)
        for tensors in (writes.values(), (rule.q,))
    )  # fmt: skip
    B, H = rule.S.shape[:2]
    T = bad.shape[1]
    t = torch.arange(T, device=bad.device)[None, :, None]
    first = torch.where(rule.S.isfinite().flatten(2).all(2), -2, -1)[:, None]
    last_bad = torch.maximum(torch.where(bad, t, -2).expand(B, T, H).cummax(1).values, first)
    since = torch.full_like(t, -1) if resets is None else torch.where(resets[..., None], t, -1).cummax(1).values
    spoilt = last_bad >= since
    return replace(rule, **clean), _Spoilt(spoilt | unread, spoilt[:, -1])


def _unturned(rule: DeltaRule) -> tuple[DeltaRule, Tensor]:
    """The rule seen from a frame that turns with the state, and the angles [B, T, H, K/2] it has turned by."""
    assert rule.angle is not None
    phase = rule.angle.to(_wide(rule.angle)).cumsum(1)
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
    beta = None if rule.beta is None else _chunks(rule.beta[..., None], size)
    decay = Decay.of(rule.log_decay, resets, size, q)
    P = decay.between(q, k)
    k_out = decay.scaled(k, decay.until_end)
    if beta is None:
        U, states = v, _sums(v.mT @ k_out, decay.through, rule.S)
    else:
        kb = beta * k
        L, v, k_in, through = decay.between(kb, k), beta * v, decay.scaled(kb, decay.since_start), decay.through
        U, states = _written(L, v, k_in, k_out, through, rule.S)
    o = decay.scaled(q, decay.since_start) @ states[:-1].mT + P @ U
    o = o.permute(1, 0, 3, 2, 4).flatten(1, 2)[:, :time]
    return o, states[-1]


def _chunks(t: Tensor, size: int) -> Tensor:
    """[B, T, H, ...] as chunks [N, B, H, C, ...], the last one filled up with zeros."""
    missing = -t.shape[1] % size
    if missing:
        t = pad(t, (0, 0) * (t.dim() - 2) + (0, missing))
    return t.unflatten(1, (-1, size)).permute(1, 0, 3, 2, *range(4, t.dim() + 1)).contiguous()


@dataclass(frozen=True)
class Decay:
    """What is left of one time step at another, within each chunk."""

    logs: Tensor | None
    """[N, B, H, C, 1 or K]: the sum of the logarithms from the chunk's first step on; None: nothing decays."""
    sequence: Tensor | None
    """[N, B, 1, C]: resets so far in the chunk; None: there are none."""
    like: Tensor

    @staticmethod
    def of(log_decay: Tensor | None, resets: Tensor | None, size: int, like: Tensor) -> Decay:
        """From log_decay [B, T, H] or [B, T, H, K] and resets [B, T]."""
        logs = None
        if log_decay is not None:
            log_decay = log_decay[..., None] if log_decay.dim() == 3 else log_decay
            logs = _chunks(log_decay, size).to(_wide(log_decay)).cumsum(-2)
        sequence = None if resets is None else _chunks(resets[..., None], size).cumsum(-1)
        return Decay(logs, sequence, like)

    @cached_property
    def related(self) -> Tensor:
        """Whether step j reaches step i: j <= i, and no reset in between. [C, C] or [N, B, 1, C, C]."""
        size = self.like.shape[-2]
        earlier = torch.ones(size, size, dtype=torch.bool, device=self.like.device).tril()
        return earlier if self.sequence is None else earlier & (self.sequence[..., None] == self.sequence[..., None, :])

    @cached_property
    def pairs(self) -> Tensor:
        """What is left of step j at step i, of all keys alike: [N, B, H, C, C]."""
        assert self.logs is not None
        exponent = (self.logs - self.logs.mT).to(self.like.dtype)
        return torch.where(self.related, exponent, -torch.inf).exp()

    def between(self, a: Tensor, b: Tensor) -> Tensor:
        """sum_K a_i b_j a_{i..j} for j <= i, else 0: [N, B, H, C, C]."""
        if self.logs is None:
            return torch.where(self.related, a @ b.mT, 0)
        if self.logs.shape[-1] == 1:
            return (a @ b.mT) * self.pairs
        scores = _halved(a, b, self.logs)
        return scores if self.sequence is None else torch.where(self.related, scores, 0)

    @cached_property
    def since_start(self) -> Tensor | None:
        """What is left of the state before the chunk at each step: [N, B, H, C, 1 or K]."""
        return self._factor(self.logs, lambda sequence: sequence == 0)

    @cached_property
    def until_end(self) -> Tensor | None:
        """What is left of each step at the end of the chunk: [N, B, H, C, 1 or K]."""
        logs = None if self.logs is None else self.logs[..., -1:, :] - self.logs
        return self._factor(logs, lambda sequence: sequence == sequence[..., -1:])

    @cached_property
    def through(self) -> Tensor | None:
        """What is left of the state before the chunk at its end: [N, B, H, 1, 1 or K]."""
        return None if self.since_start is None else self.since_start[..., -1:, :]

    def _factor(self, logs: Tensor | None, reached) -> Tensor | None:
        factor = None if logs is None else logs.to(self.like.dtype).exp()
        if self.sequence is None:
            return factor
        flags = reached(self.sequence)[..., None]
        return flags.to(self.like.dtype) if factor is None else torch.where(flags, factor, 0)

    @staticmethod
    def scaled(x: Tensor, factor: Tensor | None) -> Tensor:
        """x by a factor, if there is one."""
        return x if factor is None else x * factor


def _halved(a: Tensor, b: Tensor, logs: Tensor) -> Tensor:
    """sum_K a_i b_j exp(logs_i - logs_j) for j <= i, else 0, over [..., C, K].

    A later half meets an earlier one at the border between them: both exponents are then sums of logarithms.
    """
    size = a.shape[-2]
    if size == 1:
        return (a * b).sum(-1, keepdim=True)
    halves = [t.unflatten(-2, (2, size // 2)) for t in torch.broadcast_tensors(a, b, logs)]
    upper, lower = _halved(*halves).unbind(-3)
    (_, a), (b, _), (early, late) = (t.unbind(-3) for t in halves)
    border = early[..., -1:, :]
    cross = (a * (late - border).to(a.dtype).exp()) @ (b * (border - early).to(b.dtype).exp()).mT
    return torch.cat([pad(upper, (0, size // 2)), torch.cat([cross, lower], -1)], -2)


# --- the state from chunk to chunk --------------------------------------------------------------------------------
def _sums(written: Tensor, through: Tensor | None, S: Tensor) -> Tensor:
    """S_{n+1} = S_n through_n + written_n: all S, [N + 1, B, H, V, K]."""
    states = [S]
    factors: Sequence = [None] * len(written) if through is None else through.unbind(0)
    for x, factor in zip(written.unbind(0), factors, strict=True):
        states.append(states[-1] + x if factor is None else torch.addcmul(x, states[-1], factor))
    return torch.stack(states)


def _written(
    L: Tensor, v: Tensor, k_in: Tensor, k_out: Tensor, through: Tensor | None, S: Tensor
) -> tuple[Tensor, Tensor]:
    """U [N, B, H, C, V] and the states before every chunk and after the last one, [N + 1, B, H, V, K]."""
    lead = (len(v), *S.shape[:2])
    flat = [None if t is None else t.expand(*lead, *t.shape[3:]).flatten(1, 2) for t in (L, v, k_in, k_out, through)]
    U, states = Writes.apply(*flat, S.flatten(0, 1))
    return U.unflatten(1, lead[1:]), states.unflatten(1, lead[1:])


class Writes(torch.autograd.Function):
    """U_n = (I + L_n)^{-1} (v_n - k_in_n S_n^T),  S_{n+1} = S_n through_n + U_n^T k_out_n, for all matrices of a batch."""

    @staticmethod
    def forward(ctx, L, v, k_in, k_out, through, S):
        """Tensors [N, M, ...], S [M, V, K] to U [N, M, C, V] and all S, [N + 1, M, V, K]. Above its diagonal, L is 0."""
        one = torch.eye(L.shape[-1], dtype=L.dtype, device=L.device).expand_as(L)
        inverse = torch.linalg.solve_triangular(L, one, upper=False, unitriangular=True)
        U, states = torch.empty_like(v), S.new_empty(len(v) + 1, *S.shape)
        states[0] = S
        for n in range(len(v)):
            torch.bmm(inverse[n], torch.baddbmm(v[n], k_in[n], states[n].mT, alpha=-1), out=U[n])
            kept = states[n] if through is None else states[n] * through[n]
            torch.baddbmm(kept, U[n].mT, k_out[n], out=states[n + 1])
        ctx.save_for_backward(inverse, U, states, k_in, k_out, through)
        return U, states

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dU, dS):
        """The same chunks from the last to the first."""
        inverse, U, states, k_in, k_out, through = ctx.saved_tensors
        dv, after = torch.empty_like(U), torch.empty_like(states)
        after[-1] = dS[-1]
        for n in reversed(range(len(U))):
            torch.bmm(inverse[n].mT, torch.baddbmm(dU[n], k_out[n], after[n + 1].mT), out=dv[n])
            kept = after[n + 1] if through is None else after[n + 1] * through[n]
            torch.baddbmm(kept.add(dS[n]), dv[n].mT, k_in[n], alpha=-1, out=after[n])
        before, later = states[:-1], after[1:]
        dthrough = None if through is None else (later * before).sum(-2, keepdim=True)
        if through is not None and through.shape[-1] == 1:
            dthrough = dthrough.sum(-1, keepdim=True)
        return (dv @ -U.mT).tril(-1), dv, -(dv @ before), U @ later, dthrough, after[0]
