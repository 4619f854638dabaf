"""Affine steps in parallel over time: next = A_t state + u_t, with A_t and u_t for all t from the traced step.

On the CPU the step's own kernel runs segments of time side by side, which needs no A_t (see `segments`); elsewhere the
pairs (A_t, u_t) are combined by an associative scan.

A recurrence that is not affine but associative says so by a method `combine`; its scan is the associative one.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.func import vmap

from recurra.compiler.frontend.structure import flat_states, jacobian_rows
from recurra.engines import affine, compiled, loop
from recurra.engines.associative import scan
from recurra.engines.everywhere import Everywhere, finish, real_parts
from recurra.engines.gate import hindrance
from recurra.engines.rates import Estimate, current
from recurra.engines.traced import TracedStep, counts, traced_step
from recurra.problem import Problem, Rollout


def refuses(problem: Problem) -> str | None:
    """The reason why this problem is no scan, or None."""
    step = traced_step(problem)
    if isinstance(step, str):
        return step
    if not step.structure.affine and problem.step.combine is None:
        return f"its step is not affine in the state: {step.structure.obstacle}"
    if step.traced.custom:
        return "its step holds a torch.autograd.Function, whose gradient only the compiled loop knows"
    return counts(problem) or hindrance(problem.tensors())


def run(problem: Problem) -> Rollout:
    """All time steps by a scan; differentiable by autograd. Only after `refuses` has given None."""
    if compiled.refuses(problem) is None:
        return compiled.run(problem, cut=True)
    return by_elements(problem)


def estimate(problem: Problem) -> Estimate:
    """What a run forward is expected to take."""
    if compiled.refuses(problem) is None:
        return compiled.estimate(problem, cut=True)
    step = traced_step(problem)
    assert isinstance(step, TracedStep)
    rounds = math.log2(problem.time + 2)
    numbers = problem.batch * problem.time * problem.lanes * step.structure.size * (step.structure.block + 1)
    seconds = (30 + 10 * rounds) * current().operation + 12 * step.structure.block * numbers * current().element
    return Estimate(seconds, 16 * numbers)


def by_elements(problem: Problem) -> Rollout:
    """The scan of (A_t, u_t), or of a recurrence's own elements, in PyTorch operations on any device."""
    step = traced_step(problem)
    assert isinstance(step, TracedStep)
    if problem.batch * problem.time == 0:
        return loop.run(problem)
    whole = Everywhere(problem, step)
    return _by_own_combination(problem, whole) if problem.step.combine else _by_affine_maps(problem, whole)


def _by_own_combination(problem: Problem, whole: Everywhere) -> Rollout:
    """Elements are the states that single time steps lead to from the start; what a reset cuts off is left out."""
    states, after = flat_states(whole.step.traced)
    first, start = real_parts(problem.state), real_parts(problem.start)
    shape = problem.batch, problem.time
    fresh = {n: t.to(whole.dtype).expand(*shape, *t.shape) for n, t in start.items()}
    elements = tuple(whole(after.values(), fresh))
    own = problem.step.combine
    assert own is not None
    merge = vmap(vmap(vmap(own)))
    begin = merge(tuple(first[n][:, None].to(whole.dtype) for n in states), tuple(e[:, :1] for e in elements))
    if problem.resets is not None:
        begin = _choose(problem.resets[:, :1], tuple(e[:, :1] for e in elements), begin)
    elements = tuple(torch.cat([b, e[:, 1:]], 1) for b, e in zip(begin, elements, strict=True))
    cut = torch.zeros(shape, dtype=torch.bool, device=problem.device) if problem.resets is None else problem.resets

    def combine(earlier: tuple, later: tuple) -> tuple:
        return _choose(later[1], later[0], merge(earlier[0], later[0])), earlier[1] | later[1]

    h, _ = scan(combine, (elements, cut))
    return finish(problem, whole, dict(zip(states, h, strict=True)), first, start)


def _choose(flags: Tensor, yes: tuple, no: tuple) -> tuple:
    """`yes` where the flags [B, T] are True."""
    return tuple(
        torch.where(flags.view(*flags.shape, *[1] * (a.dim() - 2)), a, b) for a, b in zip(yes, no, strict=True)
    )


def _by_affine_maps(problem: Problem, whole: Everywhere) -> Rollout:
    step = whole.step
    states, after = flat_states(step.traced)
    blocks = affine.Blocks({name: node.shape for name, node in states.items()}, step.structure.groups)
    rows = jacobian_rows(step.traced, blocks.groups)
    zero = {f"state.{n}": torch.zeros(v.shape, dtype=whole.dtype, device=problem.device) for n, v in states.items()}
    values = whole([*after.values(), *(node for row in rows for node in row)], {}, zero)
    u = blocks.gather(dict(zip(states, values, strict=False)), 2)
    pieces = values[len(states) :]
    A = torch.stack(
        [blocks.gather(dict(zip(states, pieces[r * len(states) :], strict=False)), 2) for r in range(blocks.size)],
        2,
    )
    first, start = real_parts(problem.state), real_parts(problem.start)
    h = affine.solve(A, u, blocks.gather(first, 1), blocks.gather(start, 0), problem.resets, problem.lengths)
    return finish(problem, whole, blocks.scatter(h, problem.lanes), first, start)
