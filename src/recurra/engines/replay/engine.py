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
    times = [_over_time(problem, replay, layout, name) for name in replay.changing[len(names) :]]
    valid = None
    if problem.lengths is not None:
        valid = torch.arange(problem.time, device=problem.device) < problem.lengths[:, None]
    for flags in (problem.resets, valid):
        times += [] if flags is None else [layout.rows(flags, problem.state[name]) for name in names]
    run_all = replay.each(problem.resets is not None, valid is not None)
    outputs, last = run_all(zip(*times, strict=True) if times else repeat((), problem.time), state, start, fixed)
    y = cast(layout.outputs(outputs), problem.dtype)
    if valid is not None:
        y = torch.where(valid.view(*valid.shape, *[1] * (y.dim() - 2)), y, y.new_zeros(()))
    return Rollout(y, loop.owned({name: layout.back(t) for name, t in zip(names, last, strict=True)}))


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
