"""coRNN: coupled oscillators that are damped and driven by x."""

import torch
from torch import Tensor

from recurra import options
from recurra.problem import Lane
from recurra.recurrence import Paper
from recurra.recurrences.cell import TimedCell


class CoRNN(TimedCell):
    """z_t = z_{t-1} + dt (tanh(V x_t + b + W_y y_{t-1} + W_z z_{t-1}) - gamma y_{t-1} - epsilon z_{t-1})
    y_t = y_{t-1} + dt z_t.

    Lane: the layer, y and z, its speed: [H]; `recurrent` is W_y, W_z. `elapsed` multiplies dt.

    Source: Coupled Oscillatory Recurrent Neural Network (coRNN): An accurate and (gradient) stable architecture for
    learning long time dependencies, Rusch, Mishra, 2020, arXiv:2010.00951.
    """

    lane = Lane.LAYER
    paper = Paper("Coupled Oscillatory Recurrent Neural Network (coRNN)", "Rusch, Mishra", 2020, "2010.00951")
    gates, products = 1, 2
    states = ("y", "z")

    def __init__(
        self, width: int, hidden: int | None = None, dt: float = 0.1, gamma: float = 1.0, epsilon: float = 1.0
    ):
        super().__init__(width, hidden, dt)
        self.gamma, self.epsilon = options.number("gamma", gamma, 0), options.number("epsilon", epsilon, 0)

    def step(self, y: Tensor, z: Tensor, x: Tensor, elapsed: Tensor | float = 1.0):
        dt = self.dt * elapsed
        from_y, from_z = self.recurrent.chunk(2)
        drive = torch.tanh(x + from_y @ y + from_z @ z)
        z = z + dt * (drive - self.gamma * y - self.epsilon * z)
        y = y + dt * z
        return (y, z), y
