"""The independently recurrent network: neurons that see of the past only themselves."""

import torch
from torch import Tensor, nn

from recurra import options
from recurra.nn.linear import Linear
from recurra.problem import Lane, StepInput, constant
from recurra.recurrence import Paper, Recurrence


class IndRNN(Recurrence):
    """h_t = f(W x_t + b + u h_{t-1}),  f = relu or tanh,  y_t = h_t.

    Lane: a channel, h is a scalar; u: [H] takes the place of the recurrent matrix. Initialisation: u uniform in [0, 1].

    Source: Independently Recurrent Neural Network (IndRNN): Building A Longer and Deeper RNN, Li, Li, Cook, Zhu, Gao,
    2018, arXiv:1803.04831.
    """

    lane = Lane.CHANNEL
    paper = Paper("Independently Recurrent Neural Network (IndRNN)", "Li, Li, Cook, Zhu, Gao", 2018, "1803.04831")

    def __init__(self, width: int, hidden: int | None = None, nonlinearity: str = "relu"):
        super().__init__(width)
        self.hidden = width if hidden is None else options.count("hidden", hidden)
        self.nonlinearity = options.choice("nonlinearity", nonlinearity, ("tanh", "relu"))
        self.to_hidden = Linear(width, self.hidden)
        self.recurrent = nn.Parameter(torch.rand(self.hidden))

    def start(self) -> dict[str, Tensor]:
        return {"h": torch.zeros(self.hidden)}

    def inputs(self, x: Tensor) -> dict[str, Tensor | StepInput]:
        return {"x": self.to_hidden(x), "u": constant(self.recurrent)}

    def step(self, h: Tensor, x: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        total = x + u * h
        h = torch.tanh(total) if self.nonlinearity == "tanh" else torch.relu(total)
        return h, h
