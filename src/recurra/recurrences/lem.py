"""Long expressive memory: two states, each with time steps that it learns."""

import torch
from torch import Tensor

from recurra.problem import Lane
from recurra.recurrence import Paper
from recurra.recurrences.cell import TimedCell


class LEM(TimedCell):
    """d_t, e_t = dt sigmoid(W_{1,2} x_t + b + V_{1,2} y_{t-1})
    z_t = (1 - d_t) z_{t-1} + d_t tanh(W_z x_t + b_z + V_z y_{t-1})
    y_t = (1 - e_t) y_{t-1} + e_t tanh(W_y x_t + b_y + V_y z_t).

    Lane: the layer, y and z: [H]; `recurrent` is V_1, V_2, V_z, V_y. `elapsed` multiplies dt.

    Source: Long Expressive Memory for Sequence Modeling, Rusch, Mishra, Erichson, Mahoney, 2021, arXiv:2110.04744.
    """

    lane = Lane.LAYER
    paper = Paper(
        "Long Expressive Memory for Sequence Modeling", "Rusch, Mishra, Erichson, Mahoney", 2021, "2110.04744"
    )
    gates, products = 4, 4
    states = ("y", "z")

    def __init__(self, width: int, hidden: int | None = None, dt: float = 1.0):
        super().__init__(width, hidden, dt)

    def step(self, y: Tensor, z: Tensor, x: Tensor, elapsed: Tensor | float = 1.0):
        dt = self.dt * elapsed
        to_gates, to_y = self.recurrent[: 3 * self.hidden], self.recurrent[3 * self.hidden :]
        seen, own = x[: 3 * self.hidden], x[3 * self.hidden :]
        d, e, n = (seen + to_gates @ y).chunk(3)
        z = z + dt * torch.sigmoid(d) * (torch.tanh(n) - z)
        y = y + dt * torch.sigmoid(e) * (torch.tanh(own + to_y @ z) - y)
        return (y, z), y
