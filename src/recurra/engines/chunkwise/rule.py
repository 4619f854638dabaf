"""From what a recurrence says of itself to what chunks are made of: one write at a time, and finite numbers only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from recurra.engines.associative import scan
from recurra.engines.chunkwise.chunks import Plain, wide
from recurra.problem import DeltaRule, Problem, cast

LOWEST = -1000.0
"""The logarithm of a decay that counts as zero: its exponential is zero in float64."""
NOTHING = -1e30
"""The logarithm of a gate that admits nothing; finite, so that differences are."""
WRITTEN = ("k", "v", "beta", "erase", "take")
"""What may have an axis of several writes."""


def rule_of(problem: Problem, valid: Tensor | None) -> DeltaRule:
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
    # Beside a running maximum a decay counts by what it is compared with, however small.
    for name, lowest in (("log_decay", LOWEST if rule.log_write is None else NOTHING), ("log_write", NOTHING)):
        if name in parts:
            parts[name] = parts[name].clamp(min=lowest)
    if valid is not None:
        still = {"log_write": NOTHING}
        parts = {name: torch.where(_like(valid, t), t, still.get(name, 0)) for name, t in parts.items()}
    return replace(rule, **parts)


def _per_time(rule: DeltaRule) -> dict[str, Any]:
    """What a rule has of tensors with a time axis."""
    parts = {name: getattr(rule, name) for name in ("q", *WRITTEN, "log_decay", "log_write", "angle")}
    return {name: t for name, t in parts.items() if t is not None}


# --- what is not finite -------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Spoilt:
    """What numbers that are not finite reach: outputs [B, T, H], and the memory after each time step, [B, T, H]."""

    outputs: Tensor
    after: Tensor


def finite(rule: DeltaRule, resets: Tensor | None) -> tuple[DeltaRule, Spoilt | None]:
    """The rule with 0 in place of NaN and Inf, and what these spoil, if there are any."""
    parts = _per_time(rule)
    carried: dict[str, Tensor] = {"S": rule.S} | ({} if rule.peak is None else {"peak": rule.peak})
    if bool(torch.stack([t.detach().sum() for t in (*carried.values(), *parts.values())]).isfinite().all()):
        return rule, None
    (B, H), T = rule.S.shape[:2], rule.v.shape[1]
    bad = {name: ~t.isfinite() if t.dim() == 3 else ~t.isfinite().flatten(3).all(-1) for name, t in parts.items()}
    unread = bad.pop("q")
    written = torch.stack([flags.expand(B, T, H) for flags in bad.values()]).any(0)
    # Spoilt is what comes after something bad, before the next reset. What comes in with the state is at time -1.
    t = torch.arange(T, device=written.device)[None, :, None]
    fine = torch.stack([value.isfinite().flatten(2).all(2) if value.dim() > 2 else value.isfinite() for value in
                        carried.values()]).all(0)  # fmt: skip
    last_bad = torch.maximum(torch.where(written, t, -2).cummax(1).values, torch.where(fine, -2, -1)[:, None])
    since = torch.full_like(t, -1) if resets is None else torch.where(resets[..., None], t, -1).cummax(1).values
    after = last_bad >= since
    read = after
    if rule.before:
        read = torch.cat([~fine[:, None], after[:, :-1]], 1)
        read = read if resets is None else read & ~resets[..., None]
    clean: dict[str, Any] = {name: torch.where(t.isfinite(), t, 0) for name, t in (parts | carried).items()}
    return replace(rule, **clean), Spoilt(read | unread, after)


# --- one form -----------------------------------------------------------------------------------------------------
def stabilised(rule: DeltaRule, resets: Tensor | None) -> tuple[DeltaRule, Tensor]:
    """The rule with its exponential gates divided by exp(m), and the running maximum m, [B, T, H].

    m_t = max(log_decay_t + m_{t-1}, log_write_t), so what decays by log_decay_t + m_{t-1} - m_t and is written with
    log_write_t - m_t never grows.
    """
    assert rule.log_write is not None
    assert rule.peak is not None
    write = rule.log_write.to(wide(rule.log_write))
    decay = torch.zeros_like(write) if rule.log_decay is None else rule.log_decay.to(write.dtype)
    start, here = rule.peak.to(write.dtype)[:, None], resets[..., None] if resets is not None else None
    decay, write = torch.broadcast_tensors(decay, write)
    # Where a sequence starts the maximum before is 0, whatever has come before that.
    kept = decay if here is None else torch.where(here, NOTHING, decay)
    new = write if here is None else torch.where(here, torch.maximum(decay, write), write)
    kept, new = scan(_later_maximum, (kept, new))
    peaks = torch.maximum(kept + start, new)
    before = torch.cat([start.expand_as(peaks[:, :1]), peaks[:, :-1]], 1)
    before = before if here is None else torch.where(here, 0, before)
    admitted = torch.exp(write - peaks).to(rule.v.dtype)
    rule = replace(
        rule,
        log_decay=(decay + before - peaks).clamp(min=LOWEST),
        v=rule.v * admitted.view(*admitted.shape, *[1] * (rule.v.dim() - 3)),
        log_write=None,
    )
    return rule, peaks.to(rule.v.dtype)


def _later_maximum(earlier: tuple[Tensor, Tensor], later: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """m -> max(kept + m, new), one after the other."""
    return earlier[0] + later[0], torch.maximum(earlier[1] + later[0], later[1])


def shifted(rule: DeltaRule) -> tuple[DeltaRule, Tensor]:
    """A rule whose queries read one time step later what they read before it is written, and what the first reads."""
    first = (rule.S[:, None] @ rule.q[:, :1, ..., None])[..., 0]
    return replace(rule, q=pad(rule.q[:, 1:], (0, 0, 0, 0, 0, 1)), before=False), first


def unturned(rule: DeltaRule) -> tuple[DeltaRule, Tensor]:
    """The rule seen from a frame that turns with the state, and the angles [B, T, H, K/2] it has turned by."""
    assert rule.angle is not None
    phase = scan(torch.add, rule.angle.to(wide(rule.angle)))
    turned: dict[str, Any] = {"q": turn(rule.q, -phase)}
    for name in ("k", "erase", "take"):
        if (t := getattr(rule, name)) is not None:
            turned[name] = turn(t, -phase if t.dim() == 4 else -phase[..., None, :])
    return replace(rule, angle=None, **turned), phase


def turn(x: Tensor, angle: Tensor) -> Tensor:
    """Key i and key K/2 + i as a point of the plane, turned by `angle` i."""
    a, b = x.chunk(2, -1)
    cos, sin = torch.cos(angle).to(x.dtype), torch.sin(angle).to(x.dtype)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


def one_by_one(rule: DeltaRule, resets: Tensor | None) -> tuple[Plain, int]:
    """The rule with every write a step of its own, and how many a time step has.

    The first of them decays, the last is read; the others have no decay, and queries of zeros.
    """
    written = {name: getattr(rule, name) for name in WRITTEN}
    writes = rule.k.shape[3] if rule.k.dim() == 5 else 1
    q, log_decay = rule.q, rule.log_decay
    if rule.k.dim() == 5:
        written = {name: None if t is None else t.transpose(2, 3).flatten(1, 2) for name, t in written.items()}
        q = _among(q, writes, writes - 1)
        log_decay = None if log_decay is None else _among(log_decay, writes, 0)
        resets = None if resets is None else _among(resets, writes, 0)
    return Plain(q, **_erasing(written), S=rule.S, log_decay=log_decay, resets=resets), writes


def _among(t: Tensor, writes: int, place: int) -> Tensor:
    """[B, T, ...] as [B, T writes, ...], at one `place` of each time step and zero at the others."""
    return pad(t.unsqueeze(2), (0, 0) * (t.dim() - 2) + (place, writes - 1 - place)).flatten(1, 2)


def _erasing(written: Mapping[str, Tensor | None]) -> dict[str, Any]:
    """The same without a rate: of beta v and beta k."""
    k, v, beta, erase, take = (written[name] for name in WRITTEN)
    assert k is not None
    assert v is not None
    if beta is not None:
        v, erase = beta[..., None] * v, beta[..., None] * k if erase is None else erase
    return {"k": k, "v": v, "erase": erase, "take": take}


def _like(flags: Tensor, t: Tensor) -> Tensor:
    """[B, T] with as many axes as t."""
    return flags.view(*flags.shape, *[1] * (t.dim() - 2))
