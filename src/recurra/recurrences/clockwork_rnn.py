"""The clockwork network: groups of units that work at different rates, the slow ones telling the fast ones."""

import torch
from torch import Tensor, nn

from recurra import options
from recurra.problem import Lane, StepInput, constant
from recurra.recurrence import Paper
from recurra.recurrences.cell import Cell


class ClockworkRNN(Cell):
    """h_t = tanh(W x_t + b + U h_{t-1}) in the groups g with t mod 2^g = 0, and h_{t-1} in all others,  y_t = h_t.

    Lane: the layer, h: [H], and t, the time step from 0 on, which wraps at the longest period. `groups` is a divisor of
    H. `recurrent` is U, of which only the blocks count by which a group sees itself and slower ones.

    Source: A Clockwork RNN, Koutník, Greff, Gomez, Schmidhuber, 2014, arXiv:1402.3511.
    """

    lane = Lane.LAYER
    paper = Paper("A Clockwork RNN", "Koutník, Greff, Gomez, Schmidhuber", 2014, "1402.3511")
    gates, products = 1, 1

    def __init__(self, width: int, hidden: int | None = None, groups: int | None = None):
        super().__init__(width, hidden)
        most = next(n for n in range(min(self.hidden, 8), 0, -1) if self.hidden % n == 0)
        self.groups = most if groups is None else options.divisor("groups", groups, self.hidden, "hidden size")
        options.count("groups", self.groups, 21)  # the slowest works every 2^19 time steps then
        group = torch.arange(self.groups).repeat_interleave(self.hidden // self.groups)
        self.period = nn.Buffer(2.0**group)
        self.seen = nn.Buffer((group[:, None] <= group).to(self.period.dtype))

    def start(self) -> dict[str, Tensor]:
        return {"h": torch.zeros(self.hidden), "t": torch.zeros(())}

    def inputs(self, x: Tensor) -> dict[str, Tensor | StepInput]:
        return {"x": self.to_gates(x), "weight": constant(self.recurrent * self.seen)}

    def step(self, h: Tensor, t: Tensor, x: Tensor, weight: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
        due = torch.remainder(torch.round(t), self.period) == 0
        h = torch.where(due, torch.tanh(x + weight @ h), h)
        return (h, torch.remainder(t + 1, 2.0 ** (self.groups - 1))), h
