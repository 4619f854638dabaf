"""The structurally constrained network: slow context units beside fast hidden ones."""

import torch
from torch import Tensor, nn

from recurra import options
from recurra.nn.linear import Linear
from recurra.problem import Lane
from recurra.recurrence import Paper, Recurrence


class SCRN(Recurrence):
    """s_t = (1 - alpha) B x_t + alpha s_{t-1},  h_t = sigmoid(P s_t + A x_t + b + R h_{t-1}),  y_t = U h_t + V s_t.

    Lane: the layer, h: [H], s: [S], by default H / 2, rounded up. `recurrent` is P, R side by side: [H, S + H];
    `to_output` is V, U: [H, S + H], with a bias.

    Source: Learning Longer Memory in Recurrent Neural Networks, Mikolov, Joulin, Chopra, Mathieu, Ranzato, 2014,
    arXiv:1412.7753. Departures: biases, and y is before the softmax.
    """

    lane = Lane.LAYER
    paper = Paper("Learning Longer Memory in Recurrent Neural Networks", "Mikolov et al.", 2014, "1412.7753")

    def __init__(self, width: int, hidden: int | None = None, context: int | None = None, alpha: float = 0.95):
        super().__init__(width)
        H = self.hidden = width if hidden is None else options.count("hidden", hidden)
        S = self.context = -(-H // 2) if context is None else options.count("context", context)
        self.alpha = options.number("alpha", alpha, 0, 1)
        self.to_context = Linear(width, S, bias=False)
        self.to_hidden = Linear(width, H)
        bound = (S + H) ** -0.5
        self.recurrent = nn.Parameter(torch.empty(H, S + H).uniform_(-bound, bound))
        self.to_output = Linear(S + H, H)

    def start(self) -> dict[str, Tensor]:
        return {"s": torch.zeros(self.context), "h": torch.zeros(self.hidden)}

    def inputs(self, x: Tensor) -> dict[str, Tensor]:
        return {"slow": (1 - self.alpha) * self.to_context(x), "fast": self.to_hidden(x)}

    def step(self, s: Tensor, h: Tensor, slow: Tensor, fast: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
        s = slow + self.alpha * s
        h = torch.sigmoid(fast + self.recurrent @ torch.cat([s, h]))
        return (s, h), torch.cat([s, h])

    def outputs(self, y: Tensor, x: Tensor) -> Tensor:  # noqa: ARG002
        return self.to_output(y)
