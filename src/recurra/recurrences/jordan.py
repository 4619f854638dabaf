"""The Jordan network: what goes round is the output."""

import torch
from torch import Tensor, nn

from recurra import options
from recurra.nn.linear import Linear
from recurra.problem import Lane
from recurra.recurrence import Paper, Recurrence


class Jordan(Recurrence):
    """h_t = sigmoid(W x_t + b + U s_{t-1}),  y_t = sigmoid(V h_t + b_y),  s_t = mu s_{t-1} + y_t.

    Lane: the layer, s: [D'], h: [H]; `recurrent` is U: [H, D'], `outward` is V: [D', H], D' is `output`, by default H.
    mu is how much of itself a state unit keeps; 0 is the network of most surveys, whose state is its last output.

    Source: Serial Order: A Parallel Distributed Processing Approach, Jordan, 1986, ICS Report 8604.
    """

    lane = Lane.LAYER
    paper = Paper("Serial Order: A Parallel Distributed Processing Approach", "Jordan", 1986)

    def __init__(self, width: int, hidden: int | None = None, output: int | None = None, mu: float = 0.5):
        super().__init__(width)
        H = self.hidden = width if hidden is None else options.count("hidden", hidden)
        P = self.output = H if output is None else options.count("output", output)
        self.mu = options.number("mu", mu, 0, 1)
        self.to_hidden = Linear(width, H)
        self.recurrent = nn.Parameter(torch.empty(H, P).uniform_(-(P**-0.5), P**-0.5))
        self.outward = nn.Parameter(torch.empty(P, H).uniform_(-(H**-0.5), H**-0.5))
        self.bias = nn.Parameter(torch.zeros(P))

    def start(self) -> dict[str, Tensor]:
        return {"s": torch.zeros(self.output)}

    def inputs(self, x: Tensor) -> dict[str, Tensor]:
        return {"x": self.to_hidden(x)}

    def step(self, s: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.sigmoid(x + self.recurrent @ s)
        y = torch.sigmoid(self.outward @ h + self.bias)
        return self.mu * s + y, y
