"""The compiled loop: all time steps in machine code generated from the step, on the CPU.

The problem is brought into the form kernels take: complex values as pairs, lanes innermost for channels, everything
contiguous within a time step. The operator `recurra::rollout` then runs the forward kernel, and its gradient the
reverse one.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from recurra.compiler.frontend.trace import Untraceable
from recurra.compiler.planning.plan import Plan, make_plan
from recurra.compiler.targets import cache, host
from recurra.engines.gate import hindrance
from recurra.engines.kernels import launch, operator, segments, threads
from recurra.engines.kernels.call import vector_width
from recurra.engines.kernels.run import in_order
from recurra.engines.rates import Estimate, current
from recurra.engines.traced import STORAGE, TracedStep, is_real, lock, miscounts, tensors_of, traced_step
from recurra.problem import Lane, Problem, Rollout


def compilations() -> int:
    """Kernels compiled or loaded so far."""
    return cache.built()


def runs_on(device: torch.device) -> bool:
    """Whether there are kernels for a device."""
    return device.type == "cpu"


def refuses(problem: Problem) -> str | None:
    """The reason why this problem cannot be compiled, or None."""
    if not runs_on(problem.device):
        return f"it runs on the CPU, the layer is on {problem.device}"
    if problem.dtype not in STORAGE:
        return f"it knows {', '.join(str(d)[6:] for d in STORAGE)}, the layer is {problem.dtype}"
    step = traced_step(problem)
    return step if isinstance(step, str) else miscounts(problem, step) or hindrance(problem.tensors())


def run(problem: Problem, step: TracedStep | None = None, cut: bool = False) -> Rollout:
    """All time steps; differentiable once by autograd. Only after `refuses` has given None.

    Args:
        step: a traced step to run in place of the problem's own; by default that.
        cut: whether one long sequence may be cut in time for several threads (see `segments`).
    """
    outputs, state = run_all(problem, step, cut)
    return Rollout(_joined("y", outputs), state)


def run_all(
    problem: Problem, step: TracedStep | None = None, cut: bool = False
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """As `run`, of steps whose output may be a tuple: outputs as "y.0", "y.1", ... (or "y") and states by name."""
    step = step or traced_step(problem)  # type: ignore[assignment]
    assert isinstance(step, TracedStep)
    tensors = {name: _stored(name, t, step, problem) for name, t in tensors_of(problem, step).items()}
    needs = frozenset(n for n, t in tensors.items() if n in step.leaves and t.requires_grad and torch.is_grad_enabled())
    plan = _plan(problem, step, needs)
    channel, still = plan.channel, needs - plan.moving
    # What is not read, or has no gradient, has None and not zero: times an infinite slope further up that would be NaN.
    laid = {name: _lay_out(name, t.detach() if name in still else t, step, channel)
            for name, t in tensors.items() if name in plan.leaves or name not in step.leaves}  # fmt: skip
    differentiable = torch.is_grad_enabled() and any(t.requires_grad for t in laid.values())
    results = operator.rollout(plan, laid, problem, differentiable or cut, cut)
    parts = {name: _moved(t, t.dim() - 1, 2 if name.startswith("y") else 1) if channel else t
             for name, t in results.items()}  # fmt: skip
    outputs = {name: parts.pop(name) for name in plan.outputs}
    last = {name: _joined(f"last.{name}", parts) for name in problem.step.names}
    return outputs, {
        name: t if is_real(problem.state[name]) else t.to(problem.state[name].dtype) for name, t in last.items()
    }


def estimate(problem: Problem, cut: bool = False) -> Estimate:
    """What a run forward is expected to take."""
    rates, plan, work = current(), plan_of(problem), problem.batch * problem.time
    lanes, sizes = problem.lanes, {"float": 4, "double": 8, "bfloat": 2, "half": 2, "i8": 1}
    width = vector_width(plan)
    vectors = -(-lanes // width) if plan.channel else lanes / width
    moved = sum(math.prod(leaf.shape) * sizes[leaf.scalar] * (lanes if leaf.per_lane else 1)
                for leaf in plan.leaves.values() if leaf.per_time)  # fmt: skip
    moved += sum(math.prod(shape) * sizes[scalar] * lanes for shape, scalar in plan.outputs.values())
    shares = min(threads.count(), problem.batch * launch.most_blocks(plan))
    computing = work * vectors * plan.forward.instructions * rates.instruction
    calls = 1
    if cut and segments.possible(problem, threads.count()):
        # Segments run at once; then some launches that cost as much as two calls, and about a tenth of the work, until
        # they have met.
        shares, computing, calls = threads.count(), 1.1 * computing, 3
    computing = max(computing, work * rates.step)
    seconds = calls * rates.call + max(computing / max(1, shares), work * moved * rates.byte)
    return Estimate(seconds, 0)


def plan_of(problem: Problem) -> Plan:
    """The plan of a problem with every gradient asked for. Raises Untraceable if there is none."""
    step = traced_step(problem)
    if isinstance(step, str):
        raise Untraceable(step)
    real = frozenset(name for name, leaf in step.leaves.items() if leaf.scalar != "i8")
    return _plan(problem, step, real)


def explain(problem: Problem) -> dict[str, Any]:
    """What the compiler makes of a problem: equations, schedules, cost per lane and time step, generated source.

    Raises Untraceable, with the reason, if the step cannot be compiled.
    """
    plan = plan_of(problem)
    sizes = {"float": 4, "double": 8, "bfloat": 2, "half": 2, "i8": 1}
    read = [math.prod(leaf.shape) * sizes[leaf.scalar] for leaf in plan.leaves.values() if leaf.per_time]
    written = [math.prod(shape) * sizes[scalar] for shape, scalar in plan.outputs.values()]
    return {
        "equations": plan.listing,
        "schedule": {"forward": plan.forward.lines(), "reverse": plan.reverse.lines()},
        "bytes_read": sum(read),
        "bytes_written": sum(written),
        "instructions": plan.forward.instructions,
        "source": operator.sources(plan, problem),
    }


# --- from problem to plan -----------------------------------------------------------------------------------------
def _plan(problem: Problem, step: TracedStep, needs: frozenset[str]) -> Plan:
    with lock:
        if needs not in step.plans:
            step.plans[needs] = make_plan(
                step.traced, step.leaves, _across_lanes(problem, step), problem.lanes, STORAGE[problem.dtype], needs
            )
        return step.plans[needs]


MUCH = 32
"""Numbers computed for each that is read or written in a time step, from which on heads are worth another order of
these in memory."""


def _across_lanes(problem: Problem, step: TracedStep) -> bool:
    """Whether a vector holds the same value of neighbouring lanes, as it does for channels.

    It does for heads that fill vectors, if nothing within one fills more than half of one, and what a time step
    computes makes good for bringing inputs and output into that order.
    """
    if problem.lane is not Lane.HEAD:
        return problem.lane is Lane.CHANNEL
    width, leaves = host.vector_bytes() // problem.compute_dtype.itemsize, step.leaves.values()
    within = [t.shape[2:] for t in problem.state.values()] + [leaf.shape for leaf in leaves]
    moved = step.written + sum(math.prod(leaf.shape) for leaf in leaves if leaf.per_time)
    is_small = all(2 * shape[-1] <= width for shape in within if shape)
    return problem.lanes >= width and is_small and step.computed >= MUCH * moved


# --- from problem to the memory that kernels read -----------------------------------------------------------------
def _stored(name: str, t: Tensor, step: TracedStep, problem: Problem) -> Tensor:
    """In the type that the kernel reads it in."""
    leaf = step.leaves.get(name)
    if leaf is None or leaf.scalar in ("float", "double"):
        return t.to(problem.compute_dtype)
    return t


def _lay_out(name: str, t: Tensor, step: TracedStep, channel: bool) -> Tensor:
    """Lanes innermost for channels; the numbers of one time step (of one lane, for heads) next to each other."""
    leaf = step.leaves.get(name)
    lane_axis = 1 if name.startswith("state.") else 0
    if leaf is not None:
        lane_axis = 2 if leaf.per_time else 0
    if channel and (leaf is None or leaf.per_lane):
        t = _moved(t, lane_axis, t.dim() - 1)
    if leaf is None or not leaf.per_time:
        return t.contiguous()
    return in_order(t, 2 if channel or not leaf.per_lane else 3)


def _moved(t: Tensor, axis: int, to: int) -> Tensor:
    """With an axis at another place. PyTorch makes a view, with a gradient to pass on, even where it lies there."""
    return t if axis == to else t.movedim(axis, to)


def _joined(name: str, parts: dict[str, Tensor]) -> Tensor:
    if name in parts:
        return parts[name]
    return torch.complex(parts[f"{name}.real"], parts[f"{name}.imag"])
