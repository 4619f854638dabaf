"""From a problem to the graph of its step: traced once per recurrence, settings and kind of input, for all engines."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from recurra.compiler.frontend.graph import topological
from recurra.compiler.frontend.structure import Structure, jacobian_rows, structure
from recurra.compiler.frontend.trace import Traced, Untraceable, trace
from recurra.compiler.frontend.values import Leaf, Pair, parts
from recurra.compiler.planning.plan import Plan
from recurra.problem import Problem, cast

STORAGE = {torch.float32: "float", torch.float64: "double", torch.bfloat16: "bfloat", torch.float16: "half"}
SCALAR = STORAGE | {torch.bool: "i8"}

lock = threading.RLock()
_traces: weakref.WeakKeyDictionary[Any, dict[Hashable, _Trace]] = weakref.WeakKeyDictionary()


@dataclass
class TracedStep:
    """A traced step with the plans made of it so far, by which gradients are needed."""

    traced: Traced
    leaves: dict[str, Leaf]
    weights: list[str]
    """Names of the weights that the step reads."""
    plans: dict[frozenset[str], Plan] = field(default_factory=dict)

    @cached_property
    def structure(self) -> Structure:
        """How the next state depends on the state."""
        return structure(self.traced, self.leaves)

    @cached_property
    def read(self) -> frozenset[str]:
        """The leaves, states among them, that the new states and the output depend on."""
        return frozenset(node.attr for node in topological(_outputs(self.traced)) if node.op == "input")

    @cached_property
    def linearised(self) -> TracedStep:
        """The step with its Jacobian as output: row by row, each as long as the state, exact within its groups."""
        rows = jacobian_rows(self.traced, self.structure.groups)
        graph = self.traced.graph
        flat = [graph.reshape(node, (node.size,)) for row in rows for node in row]
        return TracedStep(replace(self.traced, y=graph.concat(flat, 0)), self.leaves, self.weights)


@dataclass(frozen=True)
class _Trace:
    """What tracing came to, and the shapes and types of the weights it holds for."""

    step: TracedStep | str
    weights: dict[str, Hashable]

    def holds(self, problem: Problem) -> bool:
        return not self.weights or self.weights == _kinds(problem.step.weights, self.weights)


def _kinds(weights: Mapping[str, Tensor], names: Iterable[str]) -> dict[str, Hashable]:
    return {name: (weights[name].shape, weights[name].dtype) for name in names if name in weights}


def traced_step(problem: Problem) -> TracedStep | str:
    """The traced step, or why there is none."""
    owner, settings = problem.step.owner
    shapes = tuple((n, e.tensor.shape[2 * e.per_time :], e.tensor.dtype, e.per_time, e.per_lane)
                   for n, e in problem.inputs.items())  # fmt: skip
    states = tuple((n, t.shape[1:], t.dtype) for n, t in problem.state.items())
    key = (settings, shapes, states, problem.dtype)
    with lock:
        known = _traces.setdefault(owner, {})
        if key not in known or not known[key].holds(problem):
            step = _trace(problem)
            weights = problem.step.weights
            known[key] = _Trace(step, _kinds(weights, weights if isinstance(step, str) else step.weights))
        return known[key].step


def _trace(problem: Problem) -> TracedStep | str:
    dtype = problem.compute_dtype
    weights = {name: cast(weight, dtype) for name, weight in problem.step.weights.items()}

    def step(states: tuple[Tensor, ...], inputs: dict[str, Tensor], own: dict[str, Tensor]) -> Any:
        return problem.step.bind(own)(states, inputs)

    with torch.no_grad():
        device = problem.device
        states = {name: _example(t.shape[2:], t.dtype, device) for name, t in problem.state.items()}
        inputs = {
            name: _example(e.tensor.shape[2 * e.per_time + e.per_lane :], cast(e.tensor[:0], dtype).dtype, device)
            for name, e in problem.inputs.items()
        }
    try:
        traced = trace(step, states, inputs, weights)
    except Untraceable as error:
        return str(error)
    leaves = _leaves(problem, traced)
    used = {node.attr for node in topological(_outputs(traced)) if node.op == "input"}
    read = {
        kind: [name for name in names if any(f"{kind}.{name}{part}" in used for part in ("", ".real", ".imag"))]
        for kind, names in (("input", inputs), ("weight", weights))
    }
    return _inexact(problem, read["input"], read["weight"]) or TracedStep(traced, leaves, read["weight"])


def _inexact(problem: Problem, inputs: list[str], weights: list[str]) -> str | None:
    """Why a graph, whose numbers are floating point, is not exactly the step, or None.

    Args:
        inputs, weights: names of those that the step reads.
    """
    states = {f"state {name!r}": t for name, t in problem.state.items()}
    others = {f"input {name!r}": problem.inputs[name].tensor for name in inputs}
    others |= {f"weight {name!r}": problem.step.weights[name] for name in weights}
    for name, t in (states | others).items():
        known = t.is_floating_point() or t.is_complex() or (t.dtype is torch.bool and name in others)
        if not known:
            return f"{name} is {str(t.dtype)[6:]}, and kernels compute in floating point: use a float"
    return None


def _example(shape: torch.Size, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Values to trace with; any will do, since what is recorded does not depend on them."""
    return torch.full(shape, 0 if dtype is torch.bool else 0.5, dtype=dtype, device=device)


def _outputs(traced: Traced) -> list:
    values = parts("states", tuple(traced.states.values())) | parts("y", traced.y)
    return list(values.values())


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


def tensors_of(problem: Problem, step: TracedStep) -> dict[str, Tensor]:
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
    return tensors
