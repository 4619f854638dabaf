"""A linear network for regular languages: small dense transitions, each made of the input."""

import torch
from torch import Tensor

from recurra import options
from recurra.nn.linear import Linear
from recurra.problem import Lane
from recurra.recurrence import Paper, Recurrence


class BlockLRNN(Recurrence):
    """h_t = A_t h_{t-1} + B x_t + b,  A_t = M_t / max(1, |M_t|_p) column by column,  y_t = h_t.

    Lane: a head, h: [n]; M_t: [n, n] is a linear map of x_t, and A_t a block of what would
    be one matrix for all heads. |.|_p is the p-norm of each column. n = `size`, by default D / heads.

    Source: Advancing Regular Language Reasoning in Linear Recurrent Neural Networks, Fan, Chi, Rudnicky, 2023,
    arXiv:2309.07412. p is 1.2 there.
    """

    lane = Lane.HEAD
    paper = Paper(
        "Advancing Regular Language Reasoning in Linear Recurrent Neural Networks",
        "Fan, Chi, Rudnicky",
        2023,
        "2309.07412",
    )

    def __init__(self, width: int, heads: int | None = None, size: int | None = None, p: float = 1.2):
        super().__init__(width)
        fewest = next(n for n in range(1, width + 1) if width % n == 0 and width // n <= 8)
        self.heads = fewest if heads is None else options.count("heads", heads)
        self.size = -(-width // self.heads) if size is None else options.count("size", size)
        self.p = options.number("p", p, 1)
        self.to_transition = Linear(width, self.heads * self.size**2)
        self.to_input = Linear(width, self.heads * self.size)

    def start(self) -> dict[str, Tensor]:
        return {"h": torch.zeros(self.heads, self.size)}

    def inputs(self, x: Tensor) -> dict[str, Tensor]:
        M = self.to_transition(x).unflatten(-1, (self.heads, self.size, self.size))
        return {"M": M, "u": self.to_input(x).unflatten(-1, (self.heads, -1))}

    def step(self, h: Tensor, M: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        norm = torch.linalg.vector_norm(M, self.p, dim=0)
        h = M @ (h / norm.clamp(min=1)) + u
        return h, h
