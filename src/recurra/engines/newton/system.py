"""The equations of a whole sequence: f and its Jacobian at all time steps, residuals, and the linear solve.

States are in blocks that do not influence each other (`affine.Blocks`): h and f are [B, T, b, N], J is [B, T, b, b, N].
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor
from torch.func import vmap

from recurra.compiler.frontend.derive import vector_jacobian
from recurra.compiler.frontend.graph import Node
from recurra.compiler.frontend.structure import flat_states, jacobian_rows
from recurra.engines import affine, compiled, loop
from recurra.engines.everywhere import Everywhere, Trajectory, before_each, joined, real_parts
from recurra.engines.traced import TracedStep
from recurra.problem import Problem, StepInput

LARGEST_BLOCK = 8
"""States that influence each other up to which the Jacobian is exact."""
FAR = 0.01
"""Relative residual above which a time step counts as far off."""
GROWTH = 600.0
"""Logarithm of the largest growth over a whole sequence that is let through while it is far off; fits in float64."""
TAME = 100.0
"""How many times larger than any state a correction may be that is taken as it is."""
SETTLED = 4
"""A residual of at most this many units of rounding is not corrected: it is the rounding of f, and new every time."""
ROWS = 1 << 24
"""Numbers of a full Jacobian that are computed at once."""


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

    def together(self, flags: Tensor) -> Tensor:
        """Flags [..., N] of blocks, with those that influence each other counted as one."""
        return flags if self.exact else flags.any(-1, keepdim=True).expand_as(flags)

    def stretches(self, starts: Tensor, begin: int, steps: int, rows: slice = slice(None)) -> Tensor:
        """Neighbouring stretches of time, side by side, by the loop.

        Args:
            starts: [B, S, b, N], the states that S stretches start from, resets aside.
            begin: where the first stretch begins.
            steps: time steps in each.
            rows: the sequences that B stands for.

        Returns:
            [B, S, steps, b, N], the states after every time step.
        """
        problem, (batch, number) = self.problem, starts.shape[:2]

        def cut(t: Tensor) -> Tensor:
            return t.detach()[rows, begin : begin + number * steps].reshape(batch * number, steps, *t.shape[2:])

        part = replace(
            problem,
            step=Trajectory(problem.step),
            inputs={n: replace(e, tensor=cut(e.tensor)) if e.per_time else e for n, e in problem.inputs.items()},
            state=joined(problem, self.blocks.scatter(starts.flatten(0, 1), problem.lanes)),
            resets=None if problem.resets is None else cut(problem.resets),
            lengths=None, batch=batch * number, time=steps, dtype=problem.compute_dtype,
        )  # fmt: skip
        engine = compiled if compiled.refuses(part) is None else loop
        y = engine.run(part).y
        split = y.split([node.size for node in self.states.values()], -1)
        parts = {n: p.unflatten(-1, node.shape) if node.shape else p.squeeze(-1)
                 for (n, node), p in zip(self.states.items(), split, strict=True)}  # fmt: skip
        return self.blocks.gather(parts, 2).unflatten(0, (batch, number))

    def improved(self, h: Tensor, f: Tensor, J: Tensor, scale: float, misses: Tensor) -> Tensor:
        """One iteration: h + d with d_t = scale J_t d_{t-1} + f_t - h_t.

        Where that goes wild, the Jacobian is cut down, wherever h is still far off, to a growth that cannot overflow
        on the way, and h is kept within the range of f: so what happens first decides about all that follows, as it
        does in a memory that is set once and then held.
        """
        J = J if scale == 1 else scale * J
        f = torch.where((misses <= SETTLED)[:, :, None], h, f)
        d, most = self.solve(J, f - h), 1.5 * _extent(f)
        if _extent(d) <= TAME * most:
            return h + d
        f, J = (torch.nan_to_num(t, 0.0, 0.0, 0.0) for t in (f, J))
        growth, limit = _growth(J), math.exp(GROWTH / self.problem.time)
        wild = (growth > limit) & ~(misses * torch.finfo(h.dtype).eps < FAR)
        J = torch.where(wild[:, :, None, None], J * (limit / growth)[:, :, None, None], J)
        d = self.solve(J.double(), (f - h).double())
        most = 1.5 * _extent(f)
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
        seeds: dict[Node, Node] = {}
        for name, node in self.after.items():
            seed = graph.input(f"adjoint.{name}", node.shape)
            # Two states may become the same value.
            seeds[node] = graph.pointwise("add", seeds[node], seed) if node in seeds else seed
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


def _extent(h: Tensor) -> float:
    """The largest size of a number; NaN if there is one. `vector_norm` takes far longer for it."""
    low, high = map(float, h.aminmax())
    return max(-low, high)


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
