"""The gated convolutional layer of language models: a convolution whose other half is its gate."""

import torch
from torch import Tensor

from recurra import options
from recurra.nn.linear import Linear
from recurra.problem import Lane
from recurra.recurrence import Paper, Recurrence


class GatedConv(Recurrence):
    """y_t = (W X_t + b) sigmoid(V X_t + c),  X_t = (x_t, x_{t-1}, ..., x_{t-k+1}).

    Lane: a channel, whose state is its last k - 1 values, the newest first, k = `kernel` (of k = 1 the last value,
    which nothing reads); `to_gates` is W, V: [hidden, k D] each.

    Source: Language Modeling with Gated Convolutional Networks, Dauphin, Fan, Auli, Grangier, 2016, arXiv:1612.08083.
    """

    lane = Lane.CHANNEL
    paper = Paper(
        "Language Modeling with Gated Convolutional Networks", "Dauphin, Fan, Auli, Grangier", 2016, "1612.08083"
    )

    def __init__(self, width: int, hidden: int | None = None, kernel: int = 4):
        super().__init__(width)
        self.hidden = width if hidden is None else options.count("hidden", hidden)
        self.kernel = options.count("kernel", kernel)
        self.to_gates = Linear(kernel * width, 2 * self.hidden)

    def start(self) -> dict[str, Tensor]:
        return {"h": torch.zeros(self.width, max(self.kernel - 1, 1))}

    def inputs(self, x: Tensor) -> dict[str, Tensor]:
        return {"x": x}

    def step(self, h: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        seen = torch.cat([x[None], h])
        return seen[: len(h)], seen[: self.kernel]

    def outputs(self, y: Tensor, x: Tensor) -> Tensor:  # noqa: ARG002
        return torch.nn.functional.glu(self.to_gates(y.flatten(2)))
