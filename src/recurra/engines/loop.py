"""The reference: a Python loop over time of `vmap(step)`. Slow and obviously right; all else must equal it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.func import vmap

from recurra.engines.rates import Estimate, current
from recurra.problem import Problem, Rollout, StepInput, cast


def refuses(problem: Problem) -> str | None:  # noqa: ARG001
    """The loop runs everything."""
    return None


def estimate(problem: Problem) -> Estimate:
    """What a run forward is expected to take: some twenty operations per time step, each mapped twice."""
    size = problem.batch * problem.lanes * sum(t[0].numel() for t in problem.start.values())
    return Estimate(problem.time * 20 * (5 * current().operation + size * current().element), 0)


def run(problem: Problem) -> Rollout:
    """Every time step in turn, all sequences and lanes side by side; differentiable by autograd."""
    dtype = problem.compute_dtype
    step = problem.step
    if dtype != problem.dtype:
        step = step.bind({name: cast(weight, dtype) for name, weight in step.weights.items()})
    inputs = {name: StepInput(cast(e.tensor, dtype), e.per_time, e.per_lane) for name, e in problem.inputs.items()}
    over_lanes = vmap(step, in_dims=(0, {name: 0 if entry.per_lane else None for name, entry in inputs.items()}))
    over_batch = vmap(over_lanes, in_dims=(0, {name: 0 if entry.per_time else None for name, entry in inputs.items()}))

    state = tuple(problem.state[name] for name in step.names)
    outputs = []
    for t in range(problem.time):
        before = state
        if problem.resets is not None:
            restarted = (problem.start[name] for name in step.names)
            state = tuple(_select(problem.resets[:, t], a, b) for a, b in zip(restarted, state, strict=True))
        now = {name: entry.tensor[:, t] if entry.per_time else entry.tensor for name, entry in inputs.items()}
        after, y = over_batch(state, now)
        if problem.lengths is not None:
            valid = t < problem.lengths
            after = tuple(_select(valid, a, b) for a, b in zip(after, before, strict=True))
            y = _select(valid, y, torch.zeros((), dtype=y.dtype, device=y.device))
        state = after
        outputs.append(cast(y, problem.dtype))
    y = torch.stack(outputs, 1) if outputs else _no_output(problem, over_batch, inputs)
    # vmap gives what is the same for all rows as one memory, and a state that a step hands on as the one that came in.
    own = (value.clone(memory_format=torch.contiguous_format) for value in state)
    return Rollout(y, dict(zip(step.names, own, strict=True)))


def _select(rows: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    """`yes` in the batch rows [B] that are True, `no` in the others. Never multiplies, so NaN stays where it is."""
    like = yes if yes.dim() >= no.dim() else no
    return torch.where(rows.view(-1, *[1] * (like.dim() - 1)), yes, no)


def _no_output(problem: Problem, over_batch, inputs: dict[str, StepInput]) -> Tensor:
    """For T = 0: an empty output of the right shape, by running one step on zeros."""
    now = {
        name: entry.tensor.new_zeros(problem.batch, *entry.tensor.shape[2:]) if entry.per_time else entry.tensor
        for name, entry in inputs.items()
    }
    state = tuple(problem.state[name] for name in problem.step.names)
    y = over_batch(state, now)[1]
    return cast(y, problem.dtype).new_zeros(problem.batch, 0, *y.shape[1:])
