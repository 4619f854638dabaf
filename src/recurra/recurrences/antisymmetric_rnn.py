"""The antisymmetric RNN: an ordinary differential equation that neither grows nor fades."""

import torch
from torch import Tensor, nn

from recurra import options
from recurra.problem import Lane, StepInput, constant
from recurra.recurrence import Paper
from recurra.recurrences.cell import TimedCell


class AntisymmetricRNN(TimedCell):
    """h_t = h_{t-1} + dt z_t tanh(M h_{t-1} + V_n x_t + b_n),  z_t = sigmoid(M h_{t-1} + V_z x_t + b_z)
    M = W - W^T - gamma I,  y_t = h_t.

    Lane: the layer, h: [H]; `recurrent` is W, of which only the antisymmetric part counts.
    `elapsed` multiplies dt. Initialisation: W normal with variance 1 / H.

    Source: AntisymmetricRNN: A Dynamical System View on Recurrent Neural Networks, Chang, Chen, Haber, Chi, 2019,
    arXiv:1902.09689 (with gating).
    """

    lane = Lane.LAYER
    paper = Paper(
        "AntisymmetricRNN: A Dynamical System View on Recurrent Neural Networks",
        "Chang, Chen, Haber, Chi",
        2019,
        "1902.09689",
    )
    gates, products = 2, 1

    def __init__(self, width: int, hidden: int | None = None, dt: float = 0.1, gamma: float = 0.01):
        super().__init__(width, hidden, dt)
        self.gamma = options.number("gamma", gamma, 0)
        nn.init.normal_(self.recurrent, std=self.hidden**-0.5)

    def inputs(self, x: Tensor, *, elapsed: Tensor | None = None) -> dict[str, Tensor | StepInput]:
        eye = torch.eye(self.hidden, dtype=self.recurrent.dtype, device=self.recurrent.device)
        matrix = self.recurrent - self.recurrent.mT - self.gamma * eye
        return super().inputs(x, elapsed=elapsed) | {"matrix": constant(matrix)}

    def step(self, h: Tensor, x: Tensor, matrix: Tensor, elapsed: Tensor | float = 1.0) -> tuple[Tensor, Tensor]:
        n, z = x.chunk(2)
        turned = matrix @ h
        h = h + self.dt * elapsed * torch.sigmoid(turned + z) * torch.tanh(turned + n)
        return h, h
