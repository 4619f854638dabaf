"""The compiled loop: all time steps in machine code generated from the step, on the CPU.

The problem is brought into the form kernels take: complex values as pairs, lanes innermost for channels, everything
contiguous within a time step. The operator `recurra::rollout` then runs the forward kernel, and its gradient the
reverse one.
"""

from __future__ import annotations

import math
import threading
import weakref
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from recurra.compiler import cache
from recurra.compiler.graph import topological
from recurra.compiler.lowering import Pair
from recurra.compiler.plan import Leaf, Plan, make_plan
from recurra.compiler.trace import Traced, Untraceable, trace
from recurra.engines import operator
from recurra.problem import Lane, Problem, Rollout, cast

STORAGE = {torch.float32: "float", torch.float64: "double", torch.bfloat16: "bfloat", torch.float16: "half"}
SCALAR = STORAGE | {torch.bool: "i8"}

_lock = threading.RLock()
_traces: weakref.WeakKeyDictionary[Any, dict] = weakref.WeakKeyDictionary()


@dataclass
class _Step:
    """A traced step with the plans made of it so far, by which gradients are needed."""

    traced: Traced
    leaves: dict[str, Leaf]
    weights: list[str]
    """Names of the weights that the step reads."""
    plans: dict[frozenset[str], Plan]


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
    if any(torch._C._functorch.is_functorch_wrapped_tensor(entry.tensor) for entry in problem.inputs.values()):
        return "it cannot run inside torch.func transforms"
    step = _traced(problem)
    return step if isinstance(step, str) else None


def run(problem: Problem) -> Rollout:
    """All time steps; differentiable once by autograd. Only after `refuses` has given None."""
    step = _traced(problem)
    assert isinstance(step, _Step)
    tensors = _tensors(problem, step)
    needs = frozenset(n for n, t in tensors.items() if n in step.leaves and t.requires_grad and torch.is_grad_enabled())
    differentiable = torch.is_grad_enabled() and any(t.requires_grad for t in tensors.values())
    plan = _plan(problem, step, needs)
    channel = plan.channel
    laid = {name: _lay_out(name, t, step, channel) for name, t in tensors.items()}
    results = operator.rollout(plan, laid, problem, differentiable)
    parts = {name: t.movedim(-1, 2 if name.startswith("y") else 1) if channel else t for name, t in results.items()}
    state = {name: _joined(f"last.{name}", parts) for name in problem.step.names}
    return Rollout(_joined("y", parts), state)


def plan_of(problem: Problem) -> Plan:
    """The plan of a problem with every gradient asked for. Raises Untraceable if there is none."""
    step = _traced(problem)
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
def _traced(problem: Problem) -> _Step | str:
    """The traced step, or why there is none; traced once per recurrence, settings and kind of input."""
    owner, settings = problem.step.owner
    shapes = tuple((n, e.tensor.shape[2 * e.per_time :], e.tensor.dtype, e.per_time, e.per_lane)
                   for n, e in problem.inputs.items())  # fmt: skip
    states = tuple((n, t.shape[1:], t.dtype) for n, t in problem.state.items())
    key = (settings, shapes, states, problem.dtype)
    with _lock:
        known = _traces.setdefault(owner, {})
        if key not in known:
            known[key] = _trace(problem)
        return known[key]


def _trace(problem: Problem) -> _Step | str:
    dtype = problem.compute_dtype
    weights = {name: cast(weight, dtype) for name, weight in problem.step.weights.items()}

    def step(states: tuple[Tensor, ...], inputs: dict[str, Tensor], own: dict[str, Tensor]) -> Any:
        return problem.step.bind(own)(states, inputs)

    with torch.no_grad():
        states = {name: _example(t.shape[2:], t.dtype) for name, t in problem.state.items()}
        inputs = {
            name: _example(e.tensor.shape[2 * e.per_time + e.per_lane :], cast(e.tensor[:0], dtype).dtype)
            for name, e in problem.inputs.items()
        }
    try:
        traced = trace(step, states, inputs, weights)
    except Untraceable as error:
        return str(error)
    leaves = _leaves(problem, traced)
    used = {n.attr for n in topological(_outputs(traced)) if n.op == "input"}
    read = [name for name in weights if {f"weight.{name}", f"weight.{name}.real"} & used]
    return _Step(traced, leaves, read, {})


def _example(shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """Values to trace with; any will do, since what is recorded does not depend on them."""
    return torch.full(shape, 0.5, dtype=dtype) if dtype is not torch.bool else torch.zeros(shape, dtype=dtype)


def _outputs(traced: Traced) -> list:
    values = [*traced.states.values(), traced.y]
    return [node for v in values for node in ((v.real, v.imag) if isinstance(v, Pair) else (v,))]


def _leaves(problem: Problem, traced: Traced) -> dict[str, Leaf]:
    leaves = {}
    for name, value in traced.inputs.items():
        kind, own = name.split(".", 1)
        if kind == "state":
            continue
        entry = problem.inputs.get(own) if kind == "input" else None
        per_time, per_lane = (entry.per_time, entry.per_lane) if entry else (False, False)
        real = "double" if problem.dtype is torch.float64 else "float"
        scalar = real
        if entry and (per_time or entry.tensor.dtype is torch.bool):
            scalar = SCALAR.get(entry.tensor.dtype, real)
            scalar = real if scalar in ("float", "double") else scalar
        for part in (f"{name}.real", f"{name}.imag") if isinstance(value, Pair) else (name,):
            leaves[part] = Leaf(part, value.shape, per_time, per_lane, scalar)
    return leaves


def _plan(problem: Problem, step: _Step, needs: frozenset[str]) -> Plan:
    with _lock:
        if needs not in step.plans:
            channel = problem.lane is Lane.CHANNEL
            step.plans[needs] = make_plan(
                step.traced, step.leaves, channel, problem.lanes, STORAGE[problem.dtype], needs
            )
        return step.plans[needs]


# --- from problem to the memory that kernels read -----------------------------------------------------------------
def _tensors(problem: Problem, step: _Step) -> dict[str, Tensor]:
    """Everything by the name it has in the graph, complex values as two."""
    weights = problem.step.weights if step.weights else {}
    whole = {f"input.{name}": entry.tensor for name, entry in problem.inputs.items()}
    whole |= {f"weight.{name}": weights[name] for name in step.weights}
    whole |= {f"state.{name}": t for name, t in problem.state.items()}
    whole |= {f"start.{name}": t for name, t in problem.start.items()}
    tensors: dict[str, Tensor] = {}
    for name, t in whole.items():
        if t.is_complex():
            tensors |= {f"{name}.real": t.real, f"{name}.imag": t.imag}
        else:
            tensors[name] = t
    return {name: _stored(name, t, step, problem) for name, t in tensors.items()}


def _stored(name: str, t: Tensor, step: _Step, problem: Problem) -> Tensor:
    """In the type that the kernel reads it in."""
    leaf = step.leaves.get(name)
    if leaf is None or leaf.scalar in ("float", "double"):
        return t.to(problem.compute_dtype)
    return t


def _lay_out(name: str, t: Tensor, step: _Step, channel: bool) -> Tensor:
    """Lanes innermost for channels; the numbers of one time step (of one lane, for heads) next to each other."""
    leaf = step.leaves.get(name)
    lane_axis = 1 if name.startswith("state.") else 0
    inner = t.dim() - 1 if name.startswith("state.") else t.dim()
    if leaf is not None:
        lane_axis = 2 if leaf.per_time else 0
        inner = t.dim() - (2 * leaf.per_time)
        if not channel and leaf.per_time and leaf.per_lane:
            inner -= 1
    if channel and (leaf is None or leaf.per_lane):
        t = t.movedim(lane_axis, -1)
    if leaf is None or not leaf.per_time:
        return t.contiguous()
    expected = 1
    for size, stride in list(zip(t.shape, t.stride(), strict=True))[::-1][:inner]:
        if size != 1 and stride != expected:
            return t.contiguous()
        expected *= size
    return t


def _joined(name: str, parts: dict[str, Tensor]) -> Tensor:
    if name in parts:
        return parts[name]
    return torch.complex(parts[f"{name}.real"], parts[f"{name}.imag"])
