"""What classic cells share: one map of x to all that it adds to the gates, and one recurrent matrix."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from recurra import options
from recurra.nn.linear import Linear
from recurra.problem import StepInput
from recurra.recurrence import Recurrence
from recurra.recurrences.discretisation import lengthened


class Cell(Recurrence):
    """`to_gates` maps x_t to `gates` vectors [H], biases included; `recurrent` is `products` matrices [H, H], one above
    the other. Initialisation: uniform in 1 / sqrt(H), maps as `torch.nn.Linear`.
    """

    gates: ClassVar[int]
    products: ClassVar[int]
    states: ClassVar[tuple[str, ...]] = ("h",)
    """Vectors [H] that are zero before the first time step."""

    def __init__(self, width: int, hidden: int | None = None):
        super().__init__(width)
        hidden = self.hidden = width if hidden is None else options.count("hidden", hidden)
        self.to_gates = Linear(width, self.gates * hidden)
        bound = hidden**-0.5
        self.recurrent = nn.Parameter(torch.empty(self.products * hidden, hidden).uniform_(-bound, bound))

    def start(self) -> dict[str, Tensor]:
        return {name: torch.zeros(self.hidden) for name in self.states}

    def inputs(self, x: Tensor) -> dict[str, Tensor | StepInput]:
        return {"x": self.to_gates(x)}


class TimedCell(Cell):
    """A cell whose states go a step of size `dt` along a differential equation; the time `elapsed` multiplies `dt`."""

    def __init__(self, width: int, hidden: int | None, dt: float):
        super().__init__(width, hidden)
        self.dt = options.number("dt", dt, 0)

    def inputs(self, x: Tensor, *, elapsed: Tensor | None = None) -> dict[str, Tensor | StepInput]:
        return {"x": self.to_gates(x)} | lengthened(x, elapsed)
