"""Newton's method on a whole sequence: all time steps of a nonlinear recurrence at once, each iteration a linear solve.

The unknown is the trajectory h; its residual is r_t = f(h_{t-1}, x_t) - h_t. An iteration adds the solution of
d_t = J_t d_{t-1} + r_t, where J_t is the step's Jacobian: exact (DEER) where the states of a lane fall into blocks of
up to 8 that do not influence each other, else its block diagonal (quasi-DEER). Where an iteration makes the residual
grow, the Jacobian is scaled down: steps stay bounded, and a factor of 0 is the plain fixed-point iteration, which is
right on one more time step every time. What is still off in the end is finished by the loop, from the first time step
that is off. So the answer is always the recurrence's.

Sources: Parallelizing non-linear sequential models over the sequence length, Lim et al., 2023, arXiv:2309.12252 (DEER);
Towards Scalable and Stable Parallelization of Nonlinear RNNs, Gonzalez et al., 2024, arXiv:2407.19115 (quasi-DEER, ELK;
theirs damps by a Kalman smoother, here the Jacobian is scaled); ParaRNN, Danieli et al., 2025, arXiv:2510.21450.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap

from recurra.compiler.derive import vector_jacobian
from recurra.compiler.structure import flat_states, jacobian_rows
from recurra.engines import affine, compiled, loop
from recurra.engines.everywhere import Everywhere, Trajectory, before_each, finish, joined, real_parts
from recurra.engines.rates import Estimate, current
from recurra.engines.traced import TracedStep, traced_step
from recurra.problem import Problem, Rollout, StepInput

LARGEST_BLOCK = 8
"""States that influence each other up to which the Jacobian is exact."""
ITERATIONS = 40
"""At most; what has not converged by then is the loop's."""
MOST = 1e30
"""What a residual counts as that is not finite."""
FAR = 0.01
"""Relative residual above which a time step counts as far off."""
GROWTH = 600.0
"""Logarithm of the largest growth over a whole sequence that is let through while it is far off; fits in float64."""
TAME = 100.0
"""How many times larger than any state a correction may be that is taken as it is."""
FEW = 0.01
"""The part of time steps that is left to the loop if an iteration does not help."""
SHORTEST = 64
"""Time steps that the loop runs before it looks whether it has met the trajectory again."""
ROWS = 1 << 24
"""Numbers of a full Jacobian that are computed at once."""
ULPS = 16
"""A time step is solved when its residual is at most this many units of rounding (see `Solve.residual`)."""


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
    return step if isinstance(step, str) else None


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
    return Estimate(6 * each, 4 * numbers * (6 + 2 * width) * (1 if exact else size // width))


def _by_position(shapes: Mapping[str, tuple[int, ...]]) -> tuple[tuple[int, ...], ...]:
    """Blocks of the states that lie at the same place in each tensor, if they have one shape; else single states."""
    size = sum(int(torch.Size(s).numel()) for s in shapes.values())
    if len(set(shapes.values())) == 1 and len(shapes) <= LARGEST_BLOCK:
        each = size // len(shapes)
        return tuple(tuple(range(i, size, each)) for i in range(each))
    return tuple((i,) for i in range(size))


# --- iterations ---------------------------------------------------------------------------------------------------
def _iterate(system: System) -> tuple[Tensor, int, Tensor, float]:
    """The trajectory [B, T, b, N], iterations, which time steps [B, T] are off, the largest residual of the others."""
    h = system.first_blocks[:, None].expand(-1, system.problem.time, -1, -1)
    scale = 1.0
    merits: list[float] = []
    kept: tuple[Tensor, ...] = ()
    for iteration in range(ITERATIONS + 1):
        f, J = system.linearised(system.before(h))
        misses = system.misses(f, J, h)
        off = ~(misses <= ULPS).all(2)
        merits.append(misses.nan_to_num(MOST, MOST).clamp(max=MOST).log1p().mean().item())
        left = int(off.sum())
        if left == 0 or iteration == ITERATIONS or _stuck(merits, left <= FEW * off.numel()):
            break
        if kept and merits[-1] > 1.02 * merits[-2] and scale > 0:
            scale = scale / 4 if scale > 1 / 64 else 0.0
            h, f, J, misses = kept
            merits[-1] = merits[-2]
        else:
            scale = min(1.0, 4 * scale) if scale > 0 else 1 / 16
            kept = h, f, J, misses
        h = system.improved(h, f, J, scale, misses)
    solved = misses[~off]
    return h.contiguous(), iteration, off, float(solved.max()) if solved.numel() else 0.0


def _stuck(merits: list[float], few: bool) -> bool:
    """Whether too little has come right lately to go on; where few time steps are left, sooner."""
    if few:
        return len(merits) > 1 and merits[-1] > 0.9 * merits[-2]
    return len(merits) > 8 and merits[-1] > 0.85 * merits[-4]


# --- what is left to the loop -------------------------------------------------------------------------------------
def _finish_by_loop(system: System, h: Tensor, off: Tensor) -> int:
    """Run what is off and write it into h: from the first time step that is, until the loop meets h again.

    Returns:
        how many time steps the loop ran.
    """
    ran, time = 0, system.problem.time
    for row in off.any(1).nonzero()[:, 0].tolist():
        begin, steps = int(off[row].int().argmax()), SHORTEST
        while begin < time:
            end = min(time, begin + steps)
            now = _run(system, h, row, begin, end)
            unit = torch.finfo(h.dtype).eps * now[-1].abs().amax(0)
            meets = ((now[-1] - h[row, end - 1]).abs().amax(0) <= ULPS * unit).all()
            h[row, begin:end] = now
            ran += end - begin
            begin, steps = end, 2 * steps
            if meets:
                rest = off[row, end:]
                begin = end + int(rest.int().argmax()) if rest.any() else time
    return ran


def _run(system: System, h: Tensor, row: int, begin: int, end: int) -> Tensor:
    """The states [T, b, N] after the time steps from `begin` to `end` of one sequence, by the loop."""
    problem, one = system.problem, slice(row, row + 1)
    part = replace(
        problem,
        step=Trajectory(problem.step),
        inputs={n: replace(e, tensor=e.tensor.detach()[one, begin:end]) if e.per_time else e
                for n, e in problem.inputs.items()},
        state=joined(problem, system.at(h, row, begin)),
        resets=None if problem.resets is None else problem.resets[one, begin:end],
        lengths=None, batch=1, time=end - begin, dtype=problem.compute_dtype,
    )  # fmt: skip
    engine = compiled if compiled.refuses(part) is None else loop
    y = engine.run(part).y
    split = y.split([node.size for node in system.states.values()], -1)
    parts = {n: p.reshape(*p.shape[:3], *node.shape) for (n, node), p in zip(system.states.items(), split, strict=True)}
    return system.blocks.gather(parts, 2)[0]


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


def _largest(h: Tensor) -> Tensor:
    """The largest size of a number in each block: [..., b, N] to [..., N]."""
    first, *others = h.unbind(-2)
    largest = first.abs()
    for other in others:
        largest = torch.maximum(largest, other.abs())
    return largest


def _growth(J: Tensor) -> Tensor:
    """[B, T, N]: how much a block of the Jacobian can enlarge the largest state."""
    sums = []
    for row in J.unbind(2):
        first, *others = row.unbind(2)
        total = first.abs()
        for other in others:
            total += other.abs()
        sums.append(total)
    return _largest(torch.stack(sums, -2)) if len(sums) > 1 else sums[0]


# --- f and its Jacobian -------------------------------------------------------------------------------------------
class System:
    """f and its Jacobian at all time steps, with states in blocks [B, T, b, N]."""

    def __init__(self, problem: Problem, step: TracedStep, groups: tuple[tuple[int, ...], ...]):
        self.problem, self.traced, self.whole = problem, step, Everywhere(problem, step)
        self.states, self.after = flat_states(step.traced)
        self.blocks = affine.Blocks({name: node.shape for name, node in self.states.items()}, groups)
        self.exact = groups == step.structure.groups and step.structure.block <= LARGEST_BLOCK
        dtype = problem.compute_dtype
        self.first = {name: t.to(dtype) for name, t in real_parts(problem.state).items()}
        self.start = {name: t.to(dtype) for name, t in real_parts(problem.start).items()}
        self.first_blocks, self.start_blocks = self.blocks.gather(self.first, 1), self.blocks.gather(self.start, 0)

    def before(self, h: Tensor) -> dict[str, Tensor]:
        """The states before every time step, given those after it."""
        return before_each(self.problem, self.blocks.scatter(h, self.problem.lanes), self.first, self.start)

    def misses(self, f: Tensor, J: Tensor, h: Tensor) -> Tensor:
        """[B, T, N]: the residuals of every block in units of rounding: of its largest state, or of what a rounding of
        the states before makes of it, whichever is larger."""
        before = torch.cat([_largest(self.first_blocks)[:, None], _largest(h)[:, :-1]], 1)
        size = torch.maximum(_largest(f), before * _growth(J).clamp_(min=1))
        misses = _largest(f - h) / size.mul_(torch.finfo(h.dtype).eps).add_(torch.finfo(h.dtype).tiny)
        if self.problem.lengths is None:
            return misses
        padding = torch.arange(h.shape[1], device=h.device) >= self.problem.lengths[:, None]
        return torch.where(padding[..., None], 0, misses)

    def at(self, h: Tensor, row: int, time: int) -> dict[str, Tensor]:
        """The states of one sequence before a time step, [1, L, ...], resets aside."""
        before = h[row, time - 1] if time else self.first_blocks[row]
        return self.blocks.scatter(before[None], self.problem.lanes)

    def improved(self, h: Tensor, f: Tensor, J: Tensor, scale: float, misses: Tensor) -> Tensor:
        """One iteration: h + d with d_t = scale J_t d_{t-1} + f_t - h_t.

        Where that goes wild, the Jacobian is cut down, wherever h is still far off, to a growth that cannot overflow
        on the way, and h is kept within the range of f: so what happens first decides about all that follows, as it
        does in a memory that is set once and then held.
        """
        J = J if scale == 1 else scale * J
        d, most = self.solve(J, f - h), 1.5 * float(torch.linalg.vector_norm(f, math.inf))
        if float(torch.linalg.vector_norm(d, math.inf)) <= TAME * most:
            return h + d
        f, J = (torch.nan_to_num(t, 0.0, 0.0, 0.0) for t in (f, J))
        growth, limit = _growth(J), math.exp(GROWTH / self.problem.time)
        wild = (growth > limit) & ~(misses * torch.finfo(h.dtype).eps < FAR)
        J = torch.where(wild[:, :, None, None], J * (limit / growth)[:, :, None, None], J)
        d = self.solve(J.double(), (f - h).double())
        most = 1.5 * float(torch.linalg.vector_norm(f, math.inf))
        return torch.nan_to_num(h + d, 0.0).clamp(-most, most).to(h.dtype)

    def solve(self, J: Tensor, residual: Tensor) -> Tensor:
        """d with d_t = J_t d_{t-1} + residual_t, from nothing."""
        zero = torch.zeros_like(self.first_blocks, dtype=J.dtype)
        start = torch.zeros_like(self.start_blocks, dtype=J.dtype)
        return affine.solve(J, residual, zero, start, self.problem.resets, self.problem.lengths)

    def after_each(self, before: Mapping[str, Tensor]) -> Tensor:
        """f at all time steps, differentiable."""
        return self.blocks.gather(dict(zip(self.states, self.whole(self.after.values(), before), strict=True)), 2)

    def linearised(self, before: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """f [B, T, b, N] and its Jacobian [B, T, b, b, N]."""
        if not self.exact:
            return self.after_each(before), self._block_diagonal(before)
        if compiled.runs_on(self.problem.device):
            return self._by_kernel(before)
        rows = jacobian_rows(self.traced.traced, self.blocks.groups)
        values = self.whole([*self.after.values(), *(node for row in rows for node in row)], before)
        pieces = [values[i : i + len(self.states)] for i in range(0, len(values), len(self.states))]
        f, *J = (self.blocks.gather(dict(zip(self.states, piece, strict=True)), 2) for piece in pieces)
        return f, torch.stack(J, 2)

    def _by_kernel(self, before: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """One compiled pass: every time step of every sequence is a sequence of length 1."""
        problem, many = self.problem, self.problem.batch * self.problem.time
        one_step = replace(
            problem,
            inputs={n: e if not e.per_time else StepInput(e.tensor.detach().reshape(many, 1, *e.tensor.shape[2:]),
                                                          True, e.per_lane)
                    for n, e in problem.inputs.items()},
            state=joined(problem, {n: t.reshape(many, *t.shape[2:]) for n, t in before.items()}),
            resets=None, lengths=None, batch=many, time=1, dtype=problem.compute_dtype,
        )  # fmt: skip
        rollout = compiled.run(one_step, self.traced.linearised)
        shape = problem.batch, problem.time
        f = {n: t.unflatten(0, shape) for n, t in real_parts(rollout.state).items()}
        rows = rollout.y.squeeze(1).transpose(-1, -2).unflatten(0, shape).unflatten(2, (self.blocks.size, -1))
        return self.blocks.gather(f, 2), self.blocks.arranged(rows)

    def _block_diagonal(self, before: Mapping[str, Tensor]) -> Tensor:
        """The diagonal blocks of a full Jacobian, from whole rows of it, as many at a time as are not too much."""
        blocks, graph = self.blocks, self.traced.traced.graph
        sizes = [node.size for node in self.states.values()]
        seeds = {node: graph.input(f"adjoint.{name}", node.shape) for name, node in self.after.items()}
        pulled = vector_jacobian(graph, seeds, list(self.states.values()))

        def whole_row(seed: Tensor) -> Tensor:
            parts = zip(self.states.items(), seed.split(sizes), strict=True)
            values = self.whole(pulled, before, {f"adjoint.{n}": p.reshape(node.shape) for (n, node), p in parts})
            return torch.cat([v.reshape(*v.shape[:3], -1) for v in values], -1)

        lead = next(iter(before.values())).shape[:3]
        dtype, device = self.problem.compute_dtype, self.problem.device
        J = torch.zeros(*lead, len(blocks.groups), blocks.size, blocks.size, dtype=dtype, device=device)
        basis = torch.eye(sum(sizes), dtype=dtype, device=device)
        columns = blocks.index(J).view(len(blocks.groups), blocks.size)
        places = [(g, r, i) for g, group in enumerate(blocks.groups) for r, i in enumerate(group)]
        at_once = max(1, ROWS // (lead.numel() * sum(sizes)))
        for some in (places[k : k + at_once] for k in range(0, len(places), at_once)):
            g, r, i = (torch.tensor(part, device=device) for part in zip(*some, strict=True))
            rows = torch.nn.functional.pad(vmap(whole_row)(basis[i]), (0, 1))
            kept = columns[g][:, None, None, None].expand(-1, *lead, -1)
            J[:, :, :, g, r] = rows.gather(-1, kept).movedim(0, -2)
        return J.movedim(2, -1).movedim(2, -2).flatten(-2)
