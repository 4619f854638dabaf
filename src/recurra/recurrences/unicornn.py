"""UnICORNN: undamped oscillators, each on its own, with time steps that are learned."""

import torch
from torch import Tensor, nn

from recurra import options
from recurra.nn.linear import Linear
from recurra.problem import Lane, StepInput, constant
from recurra.recurrence import Paper, Recurrence


class UnICORNN(Recurrence):
    """z_t = z_{t-1} - d (tanh(w y_{t-1} + V x_t + b) + alpha y_{t-1}),  y_t = y_{t-1} + d z_t,  d = dt sigmoid(c).

    Lane: a channel, y and z are scalars; w, c: [H]. `elapsed` multiplies dt.
    Initialisation: w uniform in [0, 1], c in [-0.1, 0.1].

    Source: UnICORNN: A recurrent model for learning very long time dependencies, Rusch, Mishra, 2021, arXiv:2103.05487.
    """

    lane = Lane.CHANNEL
    paper = Paper(
        "UnICORNN: A recurrent model for learning very long time dependencies", "Rusch, Mishra", 2021, "2103.05487"
    )

    def __init__(self, width: int, hidden: int | None = None, dt: float = 0.1, alpha: float = 1.0):
        super().__init__(width)
        self.hidden = width if hidden is None else options.count("hidden", hidden)
        self.dt, self.alpha = options.number("dt", dt, 0), options.number("alpha", alpha, 0)
        self.to_hidden = Linear(width, self.hidden)
        self.recurrent = nn.Parameter(torch.rand(self.hidden))
        self.pace = nn.Parameter(torch.empty(self.hidden).uniform_(-0.1, 0.1))

    def start(self) -> dict[str, Tensor]:
        return {"y": torch.zeros(self.hidden), "z": torch.zeros(self.hidden)}

    def inputs(self, x: Tensor, *, elapsed: Tensor | None = None) -> dict[str, Tensor | StepInput]:
        d = self.dt * torch.sigmoid(self.pace)
        steps = constant(d) if elapsed is None else StepInput(elapsed.to(x.dtype)[..., None] * d)
        return {"x": self.to_hidden(x), "w": constant(self.recurrent), "d": steps}

    def step(self, y: Tensor, z: Tensor, x: Tensor, w: Tensor, d: Tensor):
        z = z - d * (torch.tanh(w * y + x) + self.alpha * y)
        y = y + d * z
        return (y, z), y
