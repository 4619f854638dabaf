"""A step at all time steps at once: its graph evaluated over batch, time and lanes in PyTorch operations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap

from recurra.compiler.frontend.graph import Node, topological
from recurra.compiler.frontend.interpret import evaluate
from recurra.compiler.frontend.values import Pair, parts
from recurra.engines.reading import Named
from recurra.engines.traced import TracedStep, is_real, tensors_of
from recurra.problem import Problem, Rollout, Step, cast


class Everywhere:
    """The leaves of a problem in the form that evaluation takes: batch and time as one axis, then lanes."""

    def __init__(self, problem: Problem, step: TracedStep):
        self.problem, self.step = problem, step
        self.dtype = problem.compute_dtype
        self.leaves: dict[str, tuple[Tensor, bool, bool]] = {}
        for name, t in tensors_of(problem, step).items():
            leaf = step.leaves.get(name)
            if leaf is not None:
                t = cast(t, self.dtype) if is_real(t) or t.dtype is torch.bool else t.to(self.dtype)
                flat = t.reshape(problem.batch * problem.time, *t.shape[2:]) if leaf.per_time else t
                self.leaves[name] = flat, leaf.per_time, leaf.per_lane

    def __call__(
        self, nodes: Iterable[Node], states: Mapping[str, Tensor], others: Mapping[str, Tensor] | None = None
    ) -> list[Tensor]:
        """The values of `nodes`, each [B, T, L, *shape of the node].

        Args:
            states: the real states before every time step by name, [B, T, L, ...].
            others: further leaves of the graph by name, the same at every time step and lane.
        """
        nodes, problem = list(nodes), self.problem
        known = dict(self.leaves)
        for name, t in states.items():
            known[f"state.{name}"] = t.reshape(problem.batch * problem.time, *t.shape[2:]), True, True
        known |= {name: (t, False, False) for name, t in (others or {}).items()}
        wanted = [n.attr for n in topological(nodes) if n.op == "input"]
        values = {name: known[name][0] for name in wanted}
        time, lane = ({name: 0 if known[name][i] else None for name in wanted} for i in (1, 2))
        if not wanted or not any(known[name][1] for name in wanted):  # vmap needs something to map over
            values[""], time[""], lane[""] = torch.zeros(problem.batch * problem.time, device=problem.device), 0, None

        def one(inputs: dict[str, Tensor]) -> list[Tensor]:
            return evaluate(nodes, inputs, self.dtype)

        if not any(axis == 0 for axis in lane.values()):
            values[" "], time[" "], lane[" "] = torch.zeros(problem.lanes, device=problem.device), None, 0
        results = vmap(vmap(one, in_dims=(lane,)), in_dims=(time,))(values)
        return [r.unflatten(0, (problem.batch, problem.time)) for r in results]


def real_parts(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Complex tensors as two real ones."""
    result: dict[str, Tensor] = {}
    for name, t in tensors.items():
        result |= {f"{name}.real": t.real, f"{name}.imag": t.imag} if t.is_complex() else {name: t}
    return result


def before_each(
    problem: Problem, h: Mapping[str, Tensor], first: Mapping[str, Tensor], start: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The states before every time step, [B, T, L, ...], from those after it, the first ones and resets."""
    before = {name: torch.cat([first[name][:, None], after[:, :-1]], 1) for name, after in h.items()}
    if problem.resets is None:
        return before
    return {n: torch.where(_like(problem.resets, t), start[n], t) for n, t in before.items()}


def finish(
    problem: Problem, whole: Everywhere, h: dict[str, Tensor], first: dict[str, Tensor], start: dict[str, Tensor]
) -> Rollout:
    """Outputs and the last state, given the states after every time step."""
    y = whole.step.traced.y
    values = whole(list(parts("y", y).values()), before_each(problem, h, first, start))
    out = torch.complex(*values) if isinstance(y, Pair) else values[0]
    if problem.lengths is not None:
        padding = torch.arange(problem.time, device=problem.device) >= problem.lengths[:, None]
        out = torch.where(_like(padding, out), 0, out)
    last = {name: _last(first[name], after, problem.lengths) for name, after in h.items()}
    state = {}
    for name in problem.step.names:
        state[name] = last[name] if name in last else torch.complex(last[f"{name}.real"], last[f"{name}.imag"])
    return Rollout(cast(out, problem.dtype), state)


def _last(first: Tensor, after: Tensor, lengths: Tensor | None) -> Tensor:
    """The state after the last time step that is not padding."""
    if lengths is None:
        return after[:, -1]
    steps = torch.cat([first[:, None], after], 1)
    return steps[torch.arange(len(lengths), device=lengths.device), lengths]


def _like(flags: Tensor, t: Tensor) -> Tensor:
    """[B, T] with as many axes as t."""
    return flags.view(*flags.shape, *[1] * (t.dim() - 2))


def joined(problem: Problem, parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """States by their own names from real parts."""
    return {
        name: parts[name] if name in parts else torch.complex(parts[f"{name}.real"], parts[f"{name}.imag"])
        for name in problem.step.names
    }


class Trajectory:
    """A step whose output is its new state, flattened, complex numbers as two."""

    def __init__(self, step: Step):
        self.inner, self.names, self.weights = step, step.names, step.weights

    combine = as_delta_rule = None

    @property
    def owner(self) -> Any:
        return self.inner.owner

    @property
    def reading(self) -> Named:
        inner = self.inner.reading
        return inner.found.setdefault("trajectory", Named((inner.key, "trajectory"), inner.tensors))

    def bind(self, weights: Mapping[str, Tensor]) -> Trajectory:
        return Trajectory(self.inner.bind(weights))

    def __call__(self, states: tuple[Tensor, ...], inputs: Mapping[str, Tensor]) -> tuple[tuple[Tensor, ...], Tensor]:
        after, _ = self.inner(states, inputs)
        parts = real_parts(dict(zip(self.names, after, strict=True)))
        return after, torch.cat([part.reshape(-1) for part in parts.values()])
