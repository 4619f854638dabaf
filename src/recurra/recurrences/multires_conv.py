"""MultiresConv: a tree of dilated convolutions with shared filters, as wavelets have it."""

import torch
from torch import Tensor, nn

from recurra import options
from recurra.nn.linear import Linear
from recurra.problem import Lane, StepInput, constant
from recurra.recurrence import Paper, Recurrence


class MultiresConv(Recurrence):
    """a^0 = x,  a^{j+1}_t = sum over i of l_i a^j_{t - i 2^j},  b^{j+1}_t = sum over i of g_i a^j_{t - i 2^j}
    y_t = w_0 a^J_t + sum over j of w_j b^j_t + d x_t. The result is GLU(W gelu(y)), W: [2D, D].

    Lane: a channel, whose state is, of each a^j with j < J, the last (k - 1) 2^j values, the newest first: (k - 1)
    (2^J - 1) in all, J = `depth`, k = `kernel`; low and high filters l, g: [D, k], the same at all levels, w:
    [D, J + 1], d: [D]. Initialisation: l, g uniform in sqrt(1 / k), w in sqrt(1 / (J + 2)), d with it.

    Source: Sequence Modeling with Multiresolution Convolutional Memory, Shi, Wang, Fox, 2023, arXiv:2305.01638, of
    which the newest value of every level is read ("fading").
    """

    lane = Lane.CHANNEL
    paper = Paper("Sequence Modeling with Multiresolution Convolutional Memory", "Shi, Wang, Fox", 2023, "2305.01638")

    def __init__(self, width: int, depth: int = 4, kernel: int = 2):
        super().__init__(width)
        self.depth, self.kernel = options.count("depth", depth, 16), options.count("kernel", kernel)
        self.filters = nn.Parameter(torch.empty(width, 2, kernel).uniform_(-1, 1) * kernel**-0.5)
        self.weights = nn.Parameter(torch.empty(width, depth + 2).uniform_(-1, 1) * (depth + 2) ** -0.5)
        self.to_output = Linear(width, 2 * width)

    def start(self) -> dict[str, Tensor]:
        return {"h": torch.zeros(self.width, max((self.kernel - 1) * (2**self.depth - 1), 1))}

    def inputs(self, x: Tensor) -> dict[str, Tensor | StepInput]:
        return {"x": x, "filters": constant(self.filters), "weights": constant(self.weights)}

    def step(self, h: Tensor, x: Tensor, filters: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        a, y, kept, at = x, weights[-1] * x, [], 0
        for level in range(self.depth):
            span = (self.kernel - 1) * 2**level
            seen = torch.cat([a[None], h[at : at + span]])
            kept.append(seen[:span])
            a, b = (filters * seen[:: 2**level]).sum(1)
            y, at = y + weights[level + 1] * b, at + span
        h = torch.cat(kept) if at else h
        return h, y + weights[0] * a

    def outputs(self, y: Tensor, x: Tensor) -> Tensor:  # noqa: ARG002
        return nn.functional.glu(self.to_output(nn.functional.gelu(y)))
