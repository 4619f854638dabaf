"""The ODE-RNN: between observations the state follows a differential equation, at observations it jumps."""

import torch
from torch import Tensor, nn

from recurra import options
from recurra.problem import Lane, StepInput
from recurra.recurrence import Paper
from recurra.recurrences.cell import Cell
from recurra.recurrences.discretisation import lengthened


class ODERNN(Cell):
    """dh/dt = f(h) = W_2 tanh(W_1 h + b_1) + b_2 for the time `elapsed`, by `unfolds` steps of size dt of
    k_1 = f(h),  k_2 = f(h + dt k_1 / 2),  k_3 = f(h + dt k_2 / 2),  k_4 = f(h + dt k_3)
    h <- h + dt (k_1 + 2 k_2 + 2 k_3 + k_4) / 6,  and then, of the h' that this comes to,
    r, z = sigmoid(W x_t + b + U h'),  n = tanh(W_n x_t + b_n + r (U_n h' + c)),  h_t = (1 - z) n + z h',  y_t = h_t.

    Lane: the layer, h: [H]; `recurrent` is U_r, U_z, U_n; W_1: [F, H], W_2: [H, F], F = `flow`.

    Source: Latent ODEs for Irregularly-Sampled Time Series, Rubanova, Chen, Duvenaud, 2019, arXiv:1907.03907. The paper
    leaves the number of steps to a solver; here it is fixed, and the method the classical one of Runge and Kutta.
    """

    lane = Lane.LAYER
    paper = Paper("Latent ODEs for Irregularly-Sampled Time Series", "Rubanova, Chen, Duvenaud", 2019, "1907.03907")
    gates, products = 3, 3

    def __init__(self, width: int, hidden: int | None = None, flow: int | None = None, unfolds: int = 1):
        super().__init__(width, hidden)
        H, F = self.hidden, self.hidden if flow is None else options.count("flow", flow)
        self.unfolds = options.count("unfolds", unfolds)
        self.inner, self.outer = (nn.Parameter(torch.randn(*size) * H**-0.5) for size in ((F, H), (H, F)))
        self.inner_bias, self.outer_bias = nn.Parameter(torch.zeros(F)), nn.Parameter(torch.zeros(H))
        self.bias = nn.Parameter(torch.zeros(H))

    def inputs(self, x: Tensor, *, elapsed: Tensor | None = None) -> dict[str, Tensor | StepInput]:
        return super().inputs(x) | lengthened(x, elapsed)

    def change(self, h: Tensor) -> Tensor:
        return self.outer @ torch.tanh(self.inner @ h + self.inner_bias) + self.outer_bias

    def step(self, h: Tensor, x: Tensor, elapsed: Tensor | float = 1.0) -> tuple[Tensor, Tensor]:
        dt = elapsed / self.unfolds
        for _ in range(self.unfolds):
            k1 = self.change(h)
            k2 = self.change(h + dt / 2 * k1)
            k3 = self.change(h + dt / 2 * k2)
            h = h + dt / 6 * (k1 + 2 * k2 + 2 * k3 + self.change(h + dt * k3))
        (x_r, x_z, x_n), (r, z, n) = x.chunk(3), (self.recurrent @ h).chunk(3)
        n = torch.tanh(x_n + torch.sigmoid(x_r + r) * (n + self.bias))
        h = n + torch.sigmoid(x_z + z) * (h - n)
        return h, h
