"""The ODE-RNN: between observations the state follows a differential equation, at observations it jumps."""

import torch
from torch import nn

from recurra import Lane, Recurrence


class ODERNN(Recurrence):
    """The last channel of x_t [D] is the time dt since the observation before. h [D] follows

        dh/dt = f(h) = W_2 tanh(W_1 h + b_1) + b_2

    for that time, here by one step of the classical Runge-Kutta method of fourth order,

        k_1 = f(h),  k_2 = f(h + dt k_1 / 2),  k_3 = f(h + dt k_2 / 2),  k_4 = f(h + dt k_3),
        h' = h + dt (k_1 + 2 k_2 + 2 k_3 + k_4) / 6,

    and then reads x_t by a GRU: h_t = GRU(x_t, h').

    Lane: the layer. y_t = h_t [D]. The paper leaves the number of steps to an adaptive solver.

    Source: Latent ODEs for Irregularly-Sampled Time Series, Rubanova, Chen, Duvenaud, 2019, arXiv:1907.03907.
    """

    lane = Lane.LAYER

    def __init__(self, width: int):
        super().__init__(width)
        self.f = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, width))
        self.gru = nn.GRUCell(width, width)

    def start(self):
        return {"h": torch.zeros(self.width)}

    def inputs(self, x):
        return {"x": x, "dt": x[..., -1]}

    def step(self, h, x, dt):
        k1 = self.f(h)
        k2 = self.f(h + dt * k1 / 2)
        k3 = self.f(h + dt * k2 / 2)
        k4 = self.f(h + dt * k3)
        h = self.gru(x, h + dt * (k1 + 2 * k2 + 2 * k3 + k4) / 6)
        return h, h
