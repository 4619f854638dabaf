"""The engine "replay": what cannot be compiled, as a flat list of PyTorch's operations on all sequences and lanes.

The mapped step runs once, on examples of the sizes of the call, and is recorded below `vmap`. What is left of it when
views that change nothing are gone, and what is the same at all time steps is computed once, is run at every time step,
without the mapping, and differentiated by autograd. So a call takes no longer than a loop over batched operations that
somebody wrote by hand; the operations are those that the reference loop runs.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import repeat

import torch
from torch import Tensor

from recurra.engines import loop
from recurra.engines.rates import Estimate, current
from recurra.engines.replay.layout import Layout
from recurra.engines.replay.recording import Replay, replay_of
from recurra.problem import Problem, Rollout, StepInput, cast


def refuses(problem: Problem) -> str | None:
    """The reason why the step cannot be recorded, or None."""
    replay = replay_of(problem)
    return replay if isinstance(replay, str) else None


def estimate(problem: Problem) -> Estimate:
    """What a run forward is expected to take."""
    replay = replay_of(problem)
    assert isinstance(replay, Replay)
    size = problem.batch * problem.lanes * sum(t[0].numel() for t in problem.start.values())
    return Estimate(problem.time * replay.operations * (current().operation + size * current().element), 0)


def run(problem: Problem) -> Rollout:
    """Every time step in turn; differentiable by autograd, any number of times. Only after `refuses` has given None."""
    if problem.batch * problem.time == 0:
        return loop.run(problem)
    replay = replay_of(problem)
    assert isinstance(replay, Replay)
    with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
        return _run(problem, replay)


def _run(problem: Problem, replay: Replay) -> Rollout:
    layout, names = Layout(problem), problem.step.names
    start = [layout.start(problem.start[name]) for name in names]
    state = [layout.state(problem.state[name]) for name in names]
    fixed = [_still(problem, replay, layout, name) for name in replay.still]
    fixed += replay.once(*fixed)
    inputs = [_over_time(problem, replay, layout, name) for name in replay.changing[len(names) :]]
    restarts, valid = _selections(problem, layout, problem.resets), None
    if problem.lengths is not None:
        valid = torch.arange(problem.time, device=problem.device) < problem.lengths[:, None]
    going = _selections(problem, layout, valid)
    outputs = []
    for restart, goes, *now in zip(restarts, going, *inputs, strict=True):
        before = state
        if restart is not None:
            state = list(map(torch.where, restart, start, state))
        given = (*state, *now)
        if any(replay.written):
            given = tuple(t.clone() if own else t for t, own in zip(given, replay.written, strict=True))
        *state, y = replay.each(*given, *fixed)
        if goes is not None:
            state = list(map(torch.where, goes, state, before))
        outputs.append(y)
    y = cast(layout.outputs(outputs), problem.dtype)
    if valid is not None:
        y = torch.where(valid.view(*valid.shape, *[1] * (y.dim() - 2)), y, y.new_zeros(()))
    return Rollout(y, loop.owned({name: layout.back(t) for name, t in zip(names, state, strict=True)}))


def _selections(problem: Problem, layout: Layout, flags: Tensor | None) -> Iterable[tuple[Tensor, ...] | None]:
    """[B, T] flags as, for every time step, one for each state to choose by; or None for each."""
    if flags is None:
        return repeat(None, problem.time)
    return zip(*(layout.rows(flags, problem.state[name]) for name in problem.step.names), strict=True)


def _still(problem: Problem, replay: Replay, layout: Layout, name: str) -> Tensor:
    """A leaf that is the same at all time steps, in the type that steps compute in."""
    kind, own = name.split(".", 1)
    if kind == "constant":
        return replay.constants[name].clone()
    tensor = layout.constant(problem.inputs[own]) if kind == "input" else problem.step.weights[own]
    return cast(tensor, problem.compute_dtype)


def _over_time(problem: Problem, replay: Replay, layout: Layout, name: str) -> Iterable[Tensor]:
    """A leaf at every time step."""
    entry = problem.inputs.get(name.removeprefix("input."))
    if entry is None or not entry.per_time:
        return repeat(_still(problem, replay, layout, name), problem.time)
    return layout.over_time(StepInput(cast(entry.tensor, problem.compute_dtype), True, entry.per_lane))
