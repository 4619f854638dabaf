"""The step of one lane of one sequence as a module of its own, as exporters and tracers want it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recurra.attention.base import Attention
from recurra.problem import Problem, cast, compute_dtype
from recurra.recurrence import Recurrence
from recurra.testing.cases import Case
from recurra.windows import Past


class OneLane(nn.Module):
    """Takes the states, then the inputs of one time step; gives the new states and the output, all flat."""

    def __init__(self, problem: Problem):
        super().__init__()
        self.step, self.states, self.inputs = problem.step, len(problem.step.names), list(problem.inputs)
        dtype = problem.compute_dtype
        if dtype != problem.dtype:
            self.step = self.step.bind({name: cast(weight, dtype) for name, weight in self.step.weights.items()})

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        """One time step."""
        inputs = dict(zip(self.inputs, values[self.states :], strict=True))
        after, y = self.step(values[: self.states], inputs)
        return (*(value.clone() for value in after), y.clone())


class OneHead(nn.Module):
    """The same for a layer whose state grows; takes the states, `present`, then the inputs."""

    def __init__(self, layer: Attention, states: int, inputs: list[str]):
        super().__init__()
        self.layer, self.states, self.inputs = layer, states, inputs

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        """One time step."""
        inputs = dict(zip(self.inputs, values[self.states + 1 :], strict=True))
        after, y = self.layer.step(*values[: self.states], present=values[self.states], **inputs)
        return (*after, y)


def one_lane(case: Case) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """The module, and the values of the first lane at the first time step of a case to call it with."""
    if isinstance(case.layer, Attention):
        return _one_head(case.layer, case)
    assert isinstance(case.layer, Recurrence)
    with torch.no_grad():
        problem = case.layer.problem(case.x, **case.beside)
    values = [problem.state[name][0, 0] for name in problem.step.names]
    for entry in problem.inputs.values():
        tensor = entry.tensor[0, 0] if entry.per_time else entry.tensor
        values.append(tensor[0] if entry.per_lane else tensor)
    return OneLane(problem), tuple(cast(value.clone(), problem.compute_dtype) for value in values)


def _one_head(layer: Attention, case: Case) -> tuple[OneHead, tuple[Tensor, ...]]:
    with torch.no_grad():
        _, state = case.part(slice(0, -1), None).run("auto")
        past, last = Past(layer.windows, state, None, None), case.part(slice(-1, None), state)
        call = layer.prepare(last.x, state, past, None, None, last.beside)
    dtype = compute_dtype(case.x.dtype)
    states = [cast(value[0, 0].clone(), dtype) for value in call.state.values()]
    present = torch.ones(call.state[layer.growing[0]].shape[2], dtype=torch.bool)
    inputs = [cast(value[0, 0, 0].clone(), dtype) for value in call.inputs.values()]
    return OneHead(layer, len(states), list(call.inputs)), (*states, present, *inputs)
