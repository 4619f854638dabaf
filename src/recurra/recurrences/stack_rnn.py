"""The stack-augmented network: a recurrent network that pushes, pops and leaves a stack, all by degrees."""

import torch
from torch import Tensor, nn

from recurra import options
from recurra.nn.linear import Linear
from recurra.problem import Lane
from recurra.recurrence import Paper, Recurrence


class StackRNN(Recurrence):
    """h_t = tanh(W x_t + b + R h_{t-1} + P s_{t-1}[0]),  a = softmax(A h_t + a_0): push, pop, leave
    s_t[i] = a_push s_{t-1}[i-1] + a_pop s_{t-1}[i+1] + a_leave s_{t-1}[i],  y_t = h_t
    where sigmoid(D h_t + d) stands for s_{t-1}[-1].

    Lane: the layer, h: [H], s: [depth, cell], the top first; `recurrent` is R, P side by side: [H, H + cell]; `act` is
    A, D: [3 + cell, H], with the bias a_0, d. What is pushed further than `depth` is lost; below the stack are zeros.

    Source: Inferring Algorithmic Patterns with Stack-Augmented Recurrent Nets, Joulin, Mikolov, 2015, arXiv:1503.01007.
    Departures: tanh for the sigmoid of h, vectors in the stack (the paper has several stacks of numbers), and leaving
    as a third action, all as in later work with it (arXiv:2207.02098).
    """

    lane = Lane.LAYER
    paper = Paper(
        "Inferring Algorithmic Patterns with Stack-Augmented Recurrent Nets", "Joulin, Mikolov", 2015, "1503.01007"
    )

    def __init__(self, width: int, hidden: int | None = None, depth: int = 16, cell: int = 8):
        super().__init__(width)
        H = self.hidden = width if hidden is None else options.count("hidden", hidden)
        self.depth, self.cell = options.count("depth", depth), options.count("cell", cell)
        self.to_hidden = Linear(width, H)
        bound = H**-0.5
        self.recurrent = nn.Parameter(torch.empty(H, H + cell).uniform_(-bound, bound))
        self.act = nn.Parameter(torch.empty(3 + cell, H).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(3 + cell))

    def start(self) -> dict[str, Tensor]:
        return {"h": torch.zeros(self.hidden), "s": torch.zeros(self.depth, self.cell)}

    def inputs(self, x: Tensor) -> dict[str, Tensor]:
        return {"x": self.to_hidden(x)}

    def step(self, h: Tensor, s: Tensor, x: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
        h = torch.tanh(x + self.recurrent @ torch.cat([h, s[0]]))
        acts = self.act @ h + self.bias
        push, pop, leave = torch.softmax(acts[:3], 0)
        pushed = torch.cat([torch.sigmoid(acts[3:])[None], s[:-1]])
        popped = torch.cat([s[1:], torch.zeros_like(s[:1])])
        return (h, push * pushed + pop * popped + leave * s), h
