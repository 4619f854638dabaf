"""The closed-form continuous-time network: a liquid network whose differential equation is solved once and for all."""

import torch
from torch import Tensor, nn

from recurra import options
from recurra.nn.linear import Linear
from recurra.problem import Lane, StepInput
from recurra.recurrence import Paper, Recurrence
from recurra.recurrences.discretisation import lengthened


class CfC(Recurrence):
    """s = 1.7159 tanh(0.666 (W x_t + b + U h_{t-1})),  f, g = tanh(.), a, b = . of V s + v
    w = sigmoid(a dt + b),  h_t = (1 - w) f + w g,  y_t = h_t.

    Lane: the layer, h: [H], s: [S] with S = `backbone`; U: [S, H]; `heads` is V, for f, g, a, b: [4 H, S]. dt is
    `elapsed`, the time since the step before, 1 if nothing is said. Initialisation: Xavier's.

    Source: Closed-form Continuous-time Neural Networks, Hasani et al., 2021, arXiv:2106.13898.
    """

    lane = Lane.LAYER
    paper = Paper("Closed-form Continuous-time Neural Networks", "Hasani et al.", 2021, "2106.13898")

    def __init__(self, width: int, hidden: int | None = None, backbone: int | None = None):
        super().__init__(width)
        H = self.hidden = width if hidden is None else options.count("hidden", hidden)
        S = H if backbone is None else options.count("backbone", backbone)
        self.to_backbone = Linear(width, S)
        self.recurrent = nn.Parameter(torch.empty(S, H))
        self.heads = nn.Parameter(torch.empty(4 * H, S))
        self.bias = nn.Parameter(torch.zeros(4 * H))
        bound = (6 / (H + S)) ** 0.5
        for weight in (self.recurrent, self.heads):
            nn.init.uniform_(weight, -bound, bound)

    def start(self) -> dict[str, Tensor]:
        return {"h": torch.zeros(self.hidden)}

    def inputs(self, x: Tensor, *, elapsed: Tensor | None = None) -> dict[str, Tensor | StepInput]:
        return {"x": self.to_backbone(x)} | lengthened(x, elapsed)

    def step(self, h: Tensor, x: Tensor, elapsed: Tensor | float = 1.0) -> tuple[Tensor, Tensor]:
        s = 1.7159 * torch.tanh(0.666 * (x + self.recurrent @ h))
        f, g, a, b = (self.heads @ s + self.bias).chunk(4)
        f, g = torch.tanh(f), torch.tanh(g)
        h = f + torch.sigmoid(elapsed * a + b) * (g - f)
        return h, h
