"""Newton's method on a whole sequence: all time steps of a nonlinear recurrence at once, each iteration a linear solve.

The unknown is the trajectory h; its residual is r_t = f(h_{t-1}, x_t) - h_t. An iteration adds the solution of
d_t = J_t d_{t-1} + r_t, where J_t is the step's Jacobian: exact (DEER) where the states of a lane fall into blocks of
up to 8 that do not influence each other, else its block diagonal (quasi-DEER). Where an iteration makes the residual
grow, the Jacobian is scaled down: steps stay bounded, and a factor of 0 is the plain fixed-point iteration, which is
right on one more time step every time. Where the trajectory is in the wrong basin, `shooting` finds another. What is
still off in the end is finished by the loop, from the first time step that is off. So the answer is always the
recurrence's.

Sources: Parallelizing non-linear sequential models over the sequence length, Lim et al., 2023, arXiv:2309.12252 (DEER);
Towards Scalable and Stable Parallelization of Nonlinear RNNs, Gonzalez et al., 2024, arXiv:2407.19115 (quasi-DEER, ELK;
theirs damps by a Kalman smoother, here the Jacobian is scaled); ParaRNN, Danieli et al., 2025, arXiv:2510.21450.
"""

from __future__ import annotations

import time
import warnings
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from recurra.compiler.frontend.structure import flat_states
from recurra.engines import compiled, loop
from recurra.engines.everywhere import finish
from recurra.engines.gate import hidden, hindrance
from recurra.engines.newton import shooting
from recurra.engines.newton.system import LARGEST_BLOCK, System
from recurra.engines.rates import Estimate, current
from recurra.engines.traced import TracedStep, counts, traced_step
from recurra.problem import Problem, Rollout

ITERATIONS = 40
"""At most; what has not converged by then is the loop's."""
PATIENCE = 3
"""Iterations after which what comes right slowly is taken for a trajectory in the wrong basin."""
SLOW = 0.1
"""The part of the merit that an iteration leaves at most where the trajectory is in the right basin."""
SHOTS = 2
"""How often a new trajectory is guessed by shooting."""
MOST = 1e30
"""What a residual counts as that is not finite."""
FEW = 0.01
"""The part of time steps that is left to the loop if an iteration does not help."""
SHORTEST = 64
"""Time steps that the loop runs before it looks whether it has met the trajectory again."""
ULPS = 16
"""A time step is solved when its residual is at most this many units of rounding (see `System.misses`)."""

_warned: weakref.WeakSet[Any] = weakref.WeakSet()


@dataclass(frozen=True)
class Solve:
    """How a call of the Newton engine went."""

    iterations: int
    residual: float
    """The largest |f(h_{t-1}, x_t) - h_t| where Newton's answer was taken, in units of rounding: of the block's largest
    state, or of what a rounding of h_{t-1} makes of it."""
    finished_by_loop: int
    """Time steps, over all sequences, that Newton did not solve and the loop ran."""
    seconds: float


def refuses(problem: Problem) -> str | None:
    """The reason why this problem cannot be solved in parallel, or None."""
    step = traced_step(problem)
    if isinstance(step, str):
        return step
    if step.traced.custom:
        return "its step holds a torch.autograd.Function, whose gradient the compiled loop knows, and no Jacobian"
    return counts(problem) or hidden(problem.tensors()) or hindrance(problem.tensors())


def run(problem: Problem) -> Rollout:
    """All time steps by Newton's method; differentiable by autograd. Only after `refuses` has given None."""
    step = traced_step(problem)
    assert isinstance(step, TracedStep)
    if problem.batch * problem.time == 0:
        return loop.run(problem)
    begin = time.perf_counter()
    exact = step.structure.block <= LARGEST_BLOCK
    shapes = {name: node.shape for name, node in flat_states(step.traced)[0].items()}
    system = System(problem, step, step.structure.groups if exact else _by_position(shapes))
    with torch.no_grad():
        h, iterations, off, residual = _iterate(system)
        finished = _finish_by_loop(system, h, off)
    report = Solve(iterations, residual, finished, time.perf_counter() - begin)
    states = system.blocks.scatter(h, problem.lanes)
    if torch.is_grad_enabled():
        states = _with_gradient(system if exact else System(problem, step, step.structure.groups), states)
    rollout = finish(problem, system.whole, states, system.first, system.start)
    return replace(rollout, report={"last_solve": report})


def estimate(problem: Problem) -> Estimate:
    """What a run forward is expected to take if it converges as usual, in half a dozen iterations."""
    step, rates = traced_step(problem), current()
    assert isinstance(step, TracedStep)
    size = step.structure.size
    exact = step.structure.block <= LARGEST_BLOCK
    width = step.structure.block if exact else LARGEST_BLOCK
    numbers = problem.batch * problem.time * problem.lanes * size
    each = numbers * (10 + 3 * width) * rates.element + 60 * rates.operation
    if exact and compiled.runs_on(problem.device):
        each += (1 + width) * compiled.estimate(problem).seconds
    else:
        each += numbers * 20 * (width if exact else size) * rates.element
    return Estimate(6 * each, 4 * numbers * (12 + 2 * width) * (1 if exact else size // width))


def _by_position(shapes: Mapping[str, tuple[int, ...]]) -> tuple[tuple[int, ...], ...]:
    """Blocks of the states that lie at the same place in each tensor, if they have one shape; else single states."""
    size = sum(int(torch.Size(s).numel()) for s in shapes.values())
    if len(set(shapes.values())) == 1 and len(shapes) <= LARGEST_BLOCK:
        each = size // len(shapes)
        return tuple(tuple(range(i, size, each)) for i in range(each))
    return tuple((i,) for i in range(size))


# --- iterations ---------------------------------------------------------------------------------------------------
def _iterate(system: System) -> tuple[Tensor, int, Tensor, float]:
    """The trajectory [B, T, b, N], iterations, which blocks [B, T, N] are off, the largest residual of the others."""
    h = system.first_blocks[:, None].expand(-1, system.problem.time, -1, -1)
    scale, shots, seams = 1.0, 0, False
    merits: list[float] = []
    kept: tuple[Tensor, ...] = ()
    for iteration in range(ITERATIONS + 1):
        f, J = system.linearised(system.before(h))
        misses = system.misses(f, J, h)
        off = ~(misses <= ULPS)
        merits.append((misses / ULPS).nan_to_num(MOST, MOST).clamp(1, MOST).log().mean().item())
        left = int(off.any(2).sum())
        few = left <= FEW * off[..., 0].numel()
        if left == 0 or iteration == ITERATIONS or _stuck(merits, few):
            break
        if shots < SHOTS and not few and len(merits) > PATIENCE and merits[-1] > SLOW * merits[-2]:
            h, shots, seams, merits, kept, scale = shooting.guess(system, h), shots + 1, True, [], (), 1.0
            continue
        if seams:
            merits, seams = [MOST], False  # All that is wrong shows at seams: nothing to compare with.
        if kept and merits[-1] > 1.02 * merits[-2] and scale > 0:
            scale = scale / 4 if scale > 1 / 64 else 0.0
            h, f, J, misses = kept
            merits[-1] = merits[-2]
        else:
            scale = min(1.0, 4 * scale) if scale > 0 else 1 / 16
            kept = h, f, J, misses
        h = system.improved(h, f, J, scale, misses)
    if left:
        _say_if_not_finite(system, h, f, J)
    solved = misses[~off]
    return h.contiguous(), iteration, system.together(off), float(solved.max()) if solved.numel() else 0.0


def _stuck(merits: list[float], few: bool) -> bool:
    """Whether too little has come right lately to go on; where few time steps are left, sooner."""
    if few:
        return len(merits) > 1 and merits[-1] > 0.5 * merits[-2]
    return len(merits) > 8 and merits[-1] > 0.85 * merits[-4]


def _say_if_not_finite(system: System, h: Tensor, f: Tensor, J: Tensor) -> None:
    """Warn, once per layer, if the Jacobian is not finite at a time step where all of f is."""
    layer = system.problem.step.owner
    finite_J, finite_f, finite_h = (t.isfinite().flatten(2).all(2) for t in (J, f, h))
    if layer not in _warned and (~finite_J & finite_f & finite_h).any():
        _warned.add(layer)
        warnings.warn(
            "engine 'newton' met a Jacobian that is not finite, where the step itself is; the loop runs what could not "
            "be solved (layer.last_solve counts it)",
            stacklevel=2,
        )


# --- what is left to the loop -------------------------------------------------------------------------------------
def _finish_by_loop(system: System, h: Tensor, off: Tensor) -> int:
    """Run the blocks that are off and write them into h: each from where it is off, until the loop meets h again.

    Returns:
        how many time steps the loop ran.
    """
    ran, time = 0, system.problem.time
    for row in off.any(2).any(1).nonzero()[:, 0].tolist():
        running, begin, steps = off[row, 0], int(off[row].any(1).int().argmax()), SHORTEST
        while begin < time:
            end = min(time, begin + steps)
            start = h[row, begin - 1] if begin else system.first_blocks[row]
            now = system.stretches(start[None, None], begin, end - begin, slice(row, row + 1))[0, 0]
            unit = torch.finfo(h.dtype).eps * now[-1].abs().amax(0)
            meets = (now[-1] - h[row, end - 1]).abs().amax(0) <= ULPS * unit
            running = running | off[row, begin:end].any(0)
            h[row, begin:end] = torch.where(running, now, h[row, begin:end])
            running = system.together(running & ~meets)
            ran += end - begin
            begin, steps = end, 2 * steps
            if not running.any():
                rest = off[row, end:].any(1)
                begin, steps = end + int(rest.int().argmax()) if rest.any() else time, SHORTEST
    return ran


# --- gradient -----------------------------------------------------------------------------------------------------
def _with_gradient(system: System, states: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The states at the solution, with the gradient that the recurrence has there.

    A change of f at one time step moves the trajectory by the solution of d_t = J_t d_{t-1} + df_t, whose gradient is
    one linear solve backwards in time.
    """
    h = system.blocks.gather(states, 2)
    before = system.before(h)
    f = system.after_each(before)
    with torch.no_grad():
        J = system.linearised({name: t.detach() for name, t in before.items()})[1]
    moved = system.solve(J, f)
    return system.blocks.scatter(_Moving.apply(h, moved), system.problem.lanes)


class _Moving(torch.autograd.Function):
    """The value of one tensor with the gradient of another."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, moving: Tensor) -> Tensor:  # noqa: ARG004
        return value.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:  # noqa: ARG004
        return None, grad
