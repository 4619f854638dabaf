"""The reference: a Python loop over time of `vmap(step)`. Slow and obviously right; all else must equal it."""

from __future__ import annotations

import itertools
import traceback
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap

from recurra.compiler.frontend.refusal import LIBRARY, RANDOM
from recurra.engines.mapping import mappable
from recurra.engines.rates import Estimate, current
from recurra.errors import EngineRefused, RecurraError
from recurra.problem import Problem, Rollout, StepInput, cast

FORBIDDEN = {
    "control flow": "decides by the value of a tensor (if, while, bool()){at}: use torch.where",
    ".item()": "takes a number out of a tensor (.item(), int(), float(), math){at}: compute with the tensor",
    "random": RANDOM,
    "dynamic": "makes a tensor whose shape depends on values{at}: use torch.where",
    "data pointer": "leaves PyTorch (numpy, tolist){at}: use PyTorch's operations",
}
"""What vmap cannot do for many lanes at once, by a word of its own message, and what to do instead."""

_mapped: weakref.WeakSet[Any] = weakref.WeakSet()
"""Whose steps have been mapped once."""

Mapped = Callable[[tuple[Tensor, ...], Mapping[str, Tensor]], tuple[tuple[Tensor, ...], Tensor]]
"""A step of all sequences and lanes: states [B, L, ...] and the inputs of one time step to new states and output."""


def refuses(problem: Problem) -> str | None:
    """The reason why this step cannot be mapped over sequences and lanes, or None; found out by one time step."""
    owner = problem.step.owner
    if owner in _mapped:
        return None
    try:
        with torch.no_grad():
            _first_step(problem)
    except EngineRefused as refused:
        return str(refused)
    except Exception:
        # A mistake of the step's own, which it makes when it runs.
        return None
    _mapped.add(owner)
    return None


def estimate(problem: Problem) -> Estimate:
    """What a run forward is expected to take: some twenty operations per time step, each mapped twice."""
    size = problem.batch * problem.lanes * sum(t[0].numel() for t in problem.start.values())
    return Estimate(problem.time * 20 * (5 * current().operation + size * current().element), 0)


def run(problem: Problem) -> Rollout:
    """Every time step in turn, all sequences and lanes side by side; differentiable by autograd.

    Raises EngineRefused if the step does what cannot be done for many lanes at once.
    """
    if problem.batch * problem.time == 0:
        return _nothing(problem)
    step, inputs = _step_of(problem)
    state = tuple(problem.state[name] for name in problem.step.names)
    outputs = []
    for t in range(problem.time):
        before = state
        if problem.resets is not None:
            restarted = (problem.start[name] for name in problem.step.names)
            state = tuple(_select(problem.resets[:, t], a, b) for a, b in zip(restarted, state, strict=True))
        now = {name: entry.tensor[:, t] if entry.per_time else entry.tensor for name, entry in inputs.items()}
        after, y = step(state, now)
        if problem.lengths is not None:
            valid = t < problem.lengths
            after = tuple(_select(valid, a, b) for a, b in zip(after, before, strict=True))
            y = _select(valid, y, torch.zeros((), dtype=y.dtype, device=y.device))
        state = after
        outputs.append(cast(y, problem.dtype))
    return Rollout(torch.stack(outputs, 1), owned(dict(zip(problem.step.names, state, strict=True))))


def owned(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """States in memory of their own: vmap gives what is the same for all rows as one memory."""
    return {name: value.clone(memory_format=torch.contiguous_format) for name, value in state.items()}


def _select(rows: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    """`yes` in the batch rows [B] that are True, `no` in the others. Never multiplies, so NaN stays where it is."""
    like = yes if yes.dim() >= no.dim() else no
    return torch.where(rows.view(-1, *[1] * (like.dim() - 1)), yes, no)


def _nothing(problem: Problem) -> Rollout:
    """Without time steps or sequences: an empty output of the right shape, and the state as it came."""
    with torch.no_grad():
        y = _first_step(problem)
    empty = cast(y, problem.dtype).new_zeros(problem.batch, problem.time, *y.shape[1:])
    inputs = (entry.tensor for entry in problem.inputs.values())
    for tensor in (*problem.state.values(), *inputs, *problem.step.weights.values()):
        if tensor.requires_grad:
            # Nothing of it: y is a function of it all the same, and may be differentiated.
            empty = empty + tensor.flatten()[:0].sum().real.to(empty.dtype)
    return Rollout(empty, owned(problem.state))


def _first_step(problem: Problem) -> Tensor:
    """What the first time step of the first sequence gives, [1, L, ...]; from zeros where there is none."""
    step, inputs = _step_of(problem)
    state = tuple(
        problem.state[name][:1] if problem.batch else problem.start[name][None] for name in problem.step.names
    )
    now = {name: _first_inputs(entry) for name, entry in inputs.items()}
    return step(state, now)[1]


def _first_inputs(entry: StepInput) -> Tensor:
    """What the first sequence reads at its first time step, with a batch axis if it has one; zeros if there is none."""
    if not entry.per_time:
        return entry.tensor
    return entry.tensor[:1, 0] if entry.tensor.numel() else entry.tensor.new_zeros(1, *entry.tensor.shape[2:])


# --- the step of all sequences and lanes --------------------------------------------------------------------------
def _step_of(problem: Problem) -> tuple[Mapped, dict[str, StepInput]]:
    """The step mapped over lanes and sequences, and its inputs, all in the type that it computes in."""
    dtype, step = problem.compute_dtype, problem.step
    weights = step.weights
    computed = {name: cast(weight, dtype) for name, weight in weights.items()}
    if any(computed[name] is not weight for name, weight in weights.items()):
        step = step.bind(computed)
    inputs = {name: StepInput(cast(e.tensor, dtype), e.per_time, e.per_lane) for name, e in problem.inputs.items()}
    over_lanes = vmap(
        mappable(step), in_dims=(0, {name: 0 if entry.per_lane else None for name, entry in inputs.items()})
    )
    over_batch = vmap(over_lanes, in_dims=(0, {name: 0 if entry.per_time else None for name, entry in inputs.items()}))

    def mapped(states: tuple[Tensor, ...], now: Mapping[str, Tensor]) -> tuple[tuple[Tensor, ...], Tensor]:
        # Copies: a step may work in place, and what it is given is the caller's.
        own = {name: value.clone() for name, value in now.items()}
        try:
            return over_batch(tuple(map(torch.clone, states)), own)
        except RecurraError:
            raise
        except Exception as error:
            if "inplace" in str(error) or "setup_context" in str(error):
                # Mapped, all lanes share a tensor that a step makes before it writes what is its own into it. And a
                # torch.autograd.Function that does all in `forward` cannot be mapped.
                return _lane_by_lane(step, inputs, states, now)
            if _runs_lane_by_lane(step, inputs, states, now):
                raise EngineRefused(f"step {forbidden(error)}") from error
            raise

    return mapped, inputs


def _lane_by_lane(
    step: Callable, inputs: Mapping[str, StepInput], states: tuple[Tensor, ...], now: Mapping[str, Tensor]
) -> tuple[tuple[Tensor, ...], Tensor]:
    """The same, one lane of one sequence after the other."""
    rows, lanes = states[0].shape[:2]
    done = []
    for row, lane in itertools.product(range(rows), range(lanes)):
        at = {name: (row,) * entry.per_time + (lane,) * entry.per_lane for name, entry in inputs.items()}
        own = {name: value[at[name]].clone() for name, value in now.items()}
        after, y = step(tuple(state[row, lane].clone() for state in states), own)
        done.append((*after, y))
    *after, y = (torch.stack(values).unflatten(0, (rows, lanes)) for values in zip(*done, strict=True))
    return tuple(after), y


def _runs_lane_by_lane(
    step: Callable, inputs: Mapping[str, StepInput], states: tuple[Tensor, ...], now: Mapping[str, Tensor]
) -> bool:
    """Whether the step of every single lane runs by itself: then it is the mapping that fails."""
    try:
        with torch.no_grad():
            _lane_by_lane(step, inputs, states, now)
    except Exception:
        return False
    return True


def forbidden(error: Exception) -> str:
    """What a step did that cannot be done for many lanes at once, where, and what to do instead."""
    said = str(error)
    frames = traceback.extract_tb(error.__traceback__)
    places = [f"{f.filename}:{f.lineno}" for f in frames if not any(part in f.filename for part in LIBRARY)]
    other = f"does what cannot be done for many lanes at once{{at}}: {said.splitlines()[0].split('. ')[0]}"
    what = next((advice for word, advice in FORBIDDEN.items() if word in said), other)
    return what.format(at=f" at {places[-1]}" if places else "")
