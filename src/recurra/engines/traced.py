"""From a problem to the graph of its step: traced once per kind of step and of inputs, for all engines."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from recurra.compiler.frontend.clean import clean
from recurra.compiler.frontend.graph import LEAVES, topological
from recurra.compiler.frontend.structure import Structure, jacobian_rows, structure
from recurra.compiler.frontend.trace import Traced, Untraceable, trace
from recurra.compiler.frontend.values import Leaf, Pair, parts
from recurra.compiler.planning.plan import Plan
from recurra.engines.gate import hidden
from recurra.errors import InputError, one_line
from recurra.problem import Problem, cast

STORAGE = {torch.float32: "float", torch.float64: "double", torch.bfloat16: "bfloat", torch.float16: "half"}
SCALAR = STORAGE | {torch.bool: "i8"}
WHOLE = (torch.int64, torch.int32)
"""Types of whole numbers that states and inputs may have; narrower ones wrap around too soon."""
MOST = 64
"""Traces that are remembered after the layers they were made for are gone, for others that are alike."""

lock = threading.RLock()
_traces: OrderedDict[Hashable, TracedStep | str] = OrderedDict()


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
    def computed(self) -> int:
        """Numbers that a time step of one lane computes."""
        return sum(node.size for node in topological(_outputs(self.traced)) if node.op not in LEAVES)

    @property
    def written(self) -> int:
        """Numbers of its output."""
        return sum(node.size for node in parts("y", self.traced.y).values())

    @cached_property
    def linearised(self) -> TracedStep:
        """The step with its Jacobian as output: row by row, each as long as the state, exact within its groups."""
        rows = jacobian_rows(self.traced, self.structure.groups)
        graph = self.traced.graph
        flat = [graph.reshape(node, (node.size,)) for row in rows for node in row]
        return TracedStep(replace(self.traced, y=graph.concat(flat, 0)), self.leaves, self.weights)


def traced_step(problem: Problem) -> TracedStep | str:
    """The traced step, or why there is none."""
    reading, kind = problem.step.reading, kind_of(problem)
    found = reading.found.get(kind)
    if found is None:
        with lock:
            found = reading.found[kind] = _shared((reading.key, kind), problem)
    return found


def kind_of(problem: Problem) -> Hashable:
    """What a trace depends on besides the step: shapes and types of states and inputs."""
    shapes = tuple((n, e.tensor.shape[2 * e.per_time :], e.tensor.dtype, e.per_time, e.per_lane)
                   for n, e in problem.inputs.items())  # fmt: skip
    states = tuple((n, t.shape[1:], t.dtype) for n, t in problem.state.items())
    return shapes, states, problem.dtype, problem.device.type, torch.get_default_dtype()


def _shared(key: Hashable, problem: Problem) -> TracedStep | str:
    """A trace made for another layer like this one, or a new one."""
    if key not in _traces:
        with clean():
            _traces[key] = _trace(problem)
        if len(_traces) > MOST:
            _traces.popitem(last=False)
    _traces.move_to_end(key)
    return _traces[key]


def _trace(problem: Problem) -> TracedStep | str:
    dtype = problem.compute_dtype
    held = problem.step.weights

    def step(states: tuple[Tensor, ...], inputs: dict[str, Tensor], own: dict[str, Tensor]) -> Any:
        return problem.step.bind(own)(states, inputs)

    states = {name: example(t.shape[2:], t.dtype) for name, t in problem.state.items()}
    inputs = {
        name: example(e.tensor.shape[2 * e.per_time + e.per_lane :], computed_type(e.tensor.dtype, dtype))
        for name, e in problem.inputs.items()
    }
    weights = {name: like_weight(t, computed_type(t.dtype, dtype)) for name, t in held.items()}
    try:
        traced = trace(step, states, inputs, weights, held)
    except Untraceable as error:
        return str(error)
    except torch.linalg.LinAlgError as error:
        return f"step cannot be traced with example values: {one_line(error)}"
    leaves = _leaves(problem, traced)
    used = {node.attr for node in topological(_outputs(traced)) if node.op == "input"}
    read = {
        kind: [name for name in names if any(f"{kind}.{name}{part}" in used for part in ("", ".real", ".imag"))]
        for kind, names in (("input", inputs), ("weight", held))
    }
    prepared = set(traced.prepared.weights)
    # Whole numbers that the step reads as they are, positions say, are brought into floating point: see `_exactly`.
    needed = [name for name in read["weight"] if held[name].dtype is not torch.int64 and name not in prepared]
    needed += sorted(prepared)
    return _inexact(problem, read["input"], needed) or TracedStep(traced, leaves, read["weight"])


def _inexact(problem: Problem, inputs: list[str], weights: list[str]) -> str | None:
    """Why a graph, whose numbers are floating point, is not exactly the step, or None.

    Args:
        inputs, weights: names of those that the step reads.
    """
    states = {f"state {name!r}": t for name, t in problem.state.items()}
    others = {f"input {name!r}": problem.inputs[name].tensor for name in inputs}
    others |= {f"weight {name!r}": problem.step.weights[name] for name in weights}
    for name, t in (states | others).items():
        whole = not name.startswith("weight") and t.dtype in WHOLE
        if not (t.is_floating_point() or t.is_complex() or t.dtype is torch.bool or whole):
            wide = "" if name.startswith("weight") else ", or int64"
            return f"{name} is {str(t.dtype)[6:]}, and kernels compute in floating point: use a float{wide}"
    return None


def is_real(tensor: Tensor) -> bool:
    """Whether a tensor is floating point or complex: neither whole numbers nor flags."""
    return tensor.is_floating_point() or tensor.is_complex()


def counts(problem: Problem) -> str | None:
    """Why an engine that computes with states alone in floating point refuses a problem, or None."""
    name = next((name for name, t in problem.state.items() if not is_real(t)), None)
    if name is None:
        return None
    return f"state {name!r} is {str(problem.state[name].dtype)[6:]}: engines compiled, replay and loop count"


def miscounts(problem: Problem, step: TracedStep) -> str | None:
    """Why whole numbers of states and inputs may leave what floating point holds exactly in this call, or None."""
    counting = step.traced.counting
    if counting is None:
        return None
    states = {name: t for name, t in problem.state.items() if t.dtype in WHOLE}
    inputs = {name: e.tensor for name, e in problem.inputs.items() if e.tensor.dtype in WHOLE}
    if torch._C._len_torch_dispatch_stack():
        return "it looks at whole numbers on the way, which something that follows operations hides"
    if reason := hidden([*states.values(), *inputs.values()]):
        return reason
    type, given = str(problem.compute_dtype)[6:], _largest(inputs)
    if given > counting.inputs:
        return f"an input of {', '.join(inputs)} is beyond {counting.inputs:.0f}, from where on {type} may count wrong"
    # A few values only, of which each is looked at once. Twice what is found: it may be more between them.
    growth = 2 * counting.growth(2.0 ** math.ceil(math.log2(given + 1)))
    starts = {name: problem.start[name] for name in states}
    if max(_largest(states), _largest(starts)) + growth * problem.time > counting.states:
        return f"{', '.join(states)} may count beyond {counting.states:.0f}, from where on {type} may count wrong"
    return None


def _largest(tensors: Mapping[str, Tensor]) -> float:
    return max((float(t.double().abs().max()) for t in tensors.values() if t.numel()), default=0.0)


def computed_type(dtype: torch.dtype, real: torch.dtype) -> torch.dtype:
    """The type that a tensor has while the step computes in the real type `real`."""
    return cast(torch.empty(0, dtype=dtype, device="cpu"), real).dtype


def example(shape: Iterable[int], dtype: torch.dtype) -> Tensor:
    """Values to trace with; any will do, since what is recorded does not depend on them. Matrices are positive
    definite, since PyTorch refuses to factorise, invert or solve others."""
    made = torch.full(tuple(shape), 0 if dtype is torch.bool else 0.5, dtype=dtype, device="cpu")
    if made.dim() > 1 and (dtype.is_floating_point or dtype.is_complex):
        made = made + torch.eye(*made.shape[-2:], dtype=dtype, device="cpu")
    return made


def like_weight(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """As `example`. Operations that are refused for some matrices are given what hardly any refuses: independent
    rows, none of them zero."""
    own = example(weight.shape, dtype)
    if weight.dim() > 1 and own.is_floating_point():
        own = own + torch.rand(weight.shape, generator=torch.Generator().manual_seed(0), dtype=dtype)
    return own


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


def _exactly(name: str, weight: Tensor, dtype: torch.dtype) -> Tensor:
    """A weight; whole numbers as floating point, which has to hold them."""
    if weight.dtype is not torch.int64:
        return weight
    most = 2**53 if dtype is torch.float64 else 2**24
    if weight.numel() and int(weight.abs().max()) > most:
        raise InputError(f"weight {name!r} holds whole numbers beyond {most}, which {str(dtype)[6:]} does not hold")
    return weight.to(dtype)


def tensors_of(problem: Problem, step: TracedStep) -> dict[str, Tensor]:
    """Everything by the name it has in the graph, complex values as two."""
    prepared = step.traced.prepared
    weights = problem.step.weights if step.weights or prepared.leaves else {}
    whole = {f"input.{name}": entry.tensor for name, entry in problem.inputs.items()}
    whole |= {f"weight.{name}": _exactly(name, weights[name], problem.compute_dtype) for name in step.weights}
    if prepared.leaves:
        read = {name: cast(weights[name], problem.compute_dtype) for name in prepared.weights}
        whole |= {f"weight.{name}": t for name, t in prepared(read, problem.device).items()}
    whole |= {f"state.{name}": t for name, t in problem.state.items()}
    whole |= {f"start.{name}": t for name, t in problem.start.items()}
    tensors: dict[str, Tensor] = {}
    for name, t in whole.items():
        if t.is_complex():
            t = t.resolve_conj()
            tensors |= {f"{name}.real": t.real, f"{name}.imag": t.imag}
        else:
            tensors[name] = t.resolve_neg()
    return tensors
