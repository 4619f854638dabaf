"""The Lipschitz RNN: a stable linear part beside a nonlinearity that is as tame."""

import math

import torch
from torch import Tensor, nn

from recurra import options
from recurra.problem import Lane, StepInput, constant
from recurra.recurrence import Paper
from recurra.recurrences.cell import TimedCell


class LipschitzRNN(TimedCell):
    """h_t = h_{t-1} + dt (A h_{t-1} + tanh(W h_{t-1} + U x_t + b)),  y_t = h_t
    A = (1 - beta) (M_A + M_A^T) + beta (M_A - M_A^T) - gamma I, and W of M_W alike.

    Lane: the layer, h: [H]; `recurrent` is M_A, M_W. With beta = 1 they are antisymmetric but for -gamma I, with 1/2
    symmetric by half. `elapsed` multiplies dt. Initialisation: M_A and M_W normal with deviation 1 / H.

    Source: Lipschitz Recurrent Neural Networks, Erichson, Azencot, Queiruga, Hodgkinson, Mahoney, 2020,
    arXiv:2006.12070 (its forward Euler scheme, one beta and one gamma for both matrices).
    """

    lane = Lane.LAYER
    paper = Paper("Lipschitz Recurrent Neural Networks", "Erichson et al.", 2020, "2006.12070")
    gates, products = 1, 2

    def __init__(
        self, width: int, hidden: int | None = None, dt: float = 0.03, beta: float = 0.75, gamma: float = 0.001
    ):
        super().__init__(width, hidden, dt)
        self.gamma = options.number("gamma", gamma, 0)
        self.beta = options.number("beta", beta, 0.5, math.nextafter(1, 2))
        nn.init.normal_(self.recurrent, std=1 / self.hidden)

    def inputs(self, x: Tensor, *, elapsed: Tensor | None = None) -> dict[str, Tensor | StepInput]:
        eye = torch.eye(self.hidden, dtype=self.recurrent.dtype, device=self.recurrent.device)
        M = self.recurrent.unflatten(0, (2, -1))
        A, W = ((1 - self.beta) * (M + M.mT) + self.beta * (M - M.mT) - self.gamma * eye).unbind()
        return super().inputs(x, elapsed=elapsed) | {"A": constant(A), "W": constant(W)}

    def step(self, h: Tensor, x: Tensor, A: Tensor, W: Tensor, elapsed: Tensor | float = 1.0):
        h = h + self.dt * elapsed * (A @ h + torch.tanh(x + W @ h))
        return h, h
