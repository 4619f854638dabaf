"""Matrix memories a chunk of C time steps at a time, as matrix products, on any device.

A recurrence of the family (S: [V, K])

    S' = S_{t-1} diag(a_t),    S_t = S' + (v_t - S' e_t) k_t^T,    o_t = S_t q_t

says so by a method `as_delta_rule`, which brings what its `step` reads into this form (see `recurra.problem.DeltaRule`,
which also has e = beta k and beta v, several writes in one time step, a read before the write, keys that turn, and
exponential gates with a running maximum: `rule.py` brings them all to the form above). With S the state before a chunk,
a_{i..j} the product of the decays after step j up to step i, and everything row by row in matrices [C, ...]:

    U = (I + L)^{-1} (V - E_in S^T),    L_ij = sum_K e_i k_j a_{i..j}  for j < i,
    O = Q_in S^T + P U,                 P_ij = sum_K q_i k_j a_{i..j}  for j <= i,
    S after the chunk = S diag(a_{C..0}) + U^T K_out,

where "in" scales row i by a_{i..0} and "out" row j by a_{C..j}; u_j is what step j really writes (the WY representation
of the product of I - e k^T), and where nothing is erased it is v_j. All but the state is done for all chunks at once;
where there are kernels for it (`fused.py`) they go from chunk to chunk, otherwise PyTorch's operations do.
Decays are sums of logarithms, in float64, and no exponent is ever positive, so they do not overflow.

A matrix product multiplies by zero where a loop would select. So what is not finite is taken out first, and every
output of its sequence from there to the next reset is NaN. A memory that overflows without help from its inputs spoils
the rest of its own sequence, and the chunk it does so in.

Sources: Parallelizing Linear Transformers with the Delta Rule over the Sequence Length, Yang et al., 2024,
arXiv:2406.06484; Gated Delta Networks, Yang, Kautz, Hatamizadeh, 2024, arXiv:2412.06464; Gated Linear Attention
Transformers with Hardware-Efficient Training, Yang et al., 2023, arXiv:2312.06635, which divides a chunk once for
decays per key; here it is halved again and again (`chunks._halved`). That several products of one time step are steps
of their own: DeltaProduct, Siems et al., 2025, arXiv:2502.10297.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from recurra.engines import loop
from recurra.engines.chunkwise.chunks import CHUNK, rollout
from recurra.engines.chunkwise.rule import Spoilt, finite, one_by_one, rule_of, shifted, stabilised, turn, unturned
from recurra.engines.gate import hidden, hindrance
from recurra.engines.rates import Estimate, current
from recurra.problem import Problem, Rollout, cast


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
    """What a run forward is expected to take: some passes over [C, C] and [C, K] per chunk, and its products, which
    being small run at a third of the time per multiply-add that the compiled loop takes, not at a GEMM's."""
    rates, size = current(), sum(t[0].numel() for t in problem.start.values()) // problem.lanes
    width = math.isqrt(size) + 1
    steps = problem.batch * problem.time * problem.lanes * _writes(problem)
    passes = steps * (8 * CHUNK + 24 * width) * rates.element
    products = steps * (4 * CHUNK * width + 4 * size) * rates.instruction / 3
    seconds = passes + products + (60 + 8 * problem.time / CHUNK) * rates.operation
    return Estimate(seconds, 4 * steps * (4 * CHUNK + 8 * width + size // CHUNK))


def _writes(problem: Problem) -> int:
    """How often a time step writes, from the axes of the keys of the first one."""
    inputs = {n: replace(e, tensor=e.tensor[:1, :1] if e.per_time else e.tensor) for n, e in problem.inputs.items()}
    one = replace(problem, inputs=inputs, state={n: t[:1] for n, t in problem.state.items()}, batch=1, time=1)
    with torch.no_grad():
        k = rule_of(one, None).k
    return k.shape[3] if k.dim() == 5 else 1


def run(problem: Problem) -> Rollout:
    """All time steps, chunk by chunk; differentiable once by autograd. Only after `refuses` has given None."""
    if problem.batch * problem.time == 0:
        return loop.run(problem)
    valid, resets = None, problem.resets
    if problem.lengths is not None:
        valid = torch.arange(problem.time, device=problem.device) < problem.lengths[:, None]
        resets = resets if resets is None else resets & valid
    rule, spoilt = finite(rule_of(problem, valid), resets)
    peaks = phase = first = None
    if rule.log_write is not None:
        rule, peaks = stabilised(rule, resets)
    if rule.before:
        rule, first = shifted(rule)
    if rule.angle is not None:
        rule, phase = unturned(rule)
    plain, writes = one_by_one(rule, resets)
    o, S = rollout(plain)
    o = o[:, writes - 1 :: writes]
    if first is not None:
        o = torch.cat([first, o[:, :-1]], 1)
        o = o if resets is None else torch.where(resets[..., None, None], 0, o)
    if phase is not None:
        S = turn(S, phase[:, -1][:, :, None])
    o, S, peaks = _with_nan(o, S, peaks, spoilt)
    states, y = rule.result(o, S, *(() if peaks is None else (peaks,))) if rule.result else (S, o)
    if valid is not None:
        y = torch.where(valid.view(*valid.shape, *[1] * (y.dim() - 2)), y, 0)
    states = states if isinstance(states, tuple) else (states,)
    return Rollout(cast(y, problem.dtype), dict(zip(problem.step.names, states, strict=True)))


def _with_nan(
    o: torch.Tensor, S: torch.Tensor, peaks: torch.Tensor | None, spoilt: Spoilt | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """NaN back where it belongs."""
    if spoilt is None:
        return o, S, peaks
    o = torch.where(spoilt.outputs[..., None], torch.nan, o)
    S = torch.where(spoilt.after[:, -1, :, None, None], torch.nan, S)
    return o, S, peaks if peaks is None else torch.where(spoilt.after, torch.nan, peaks)
