"""The step of one lane of one sequence as a module of its own, as exporters and tracers want it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recurra.problem import Problem, cast
from recurra.testing.cases import Case


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


def one_lane(case: Case) -> tuple[OneLane, tuple[Tensor, ...]]:
    """The module, and the values of the first lane at the first time step of a case to call it with."""
    with torch.no_grad():
        problem = case.layer.problem(case.x)
    values = [problem.state[name][0, 0] for name in problem.step.names]
    for entry in problem.inputs.values():
        tensor = entry.tensor[0, 0] if entry.per_time else entry.tensor
        values.append(tensor[0] if entry.per_lane else tensor)
    return OneLane(problem), tuple(cast(value.clone(), problem.compute_dtype) for value in values)
