"""The unitary-evolution network: every input turns the state, and nothing else happens to it."""

import math

import torch
from torch import Tensor

from recurra import options
from recurra.nn.linear import Linear
from recurra.problem import Lane
from recurra.recurrence import Paper, Recurrence

HALVINGS = 13
"""How often a matrix is halved at most before its exponential is taken, and the result squared."""


class URN(Recurrence):
    """h_t = U_t h_{t-1},  U_t = exp(A_t - A_t^T),  y_t = h_t.

    Lane: a head, h: [n]; A_t: [n, n], strictly upper triangular, is a linear map of x_t, so that U_t is orthogonal and
    the norm of h is one for ever. h_0 is the first unit vector. n = `size`, by default D / heads, 2 at least.

    A matrix whose columns have sums of absolute values beyond 4,096, a turn of hundreds of rounds in one time step, has
    no exponential here: NaN.

    Source: Assessing the Unitary RNN as an End-to-End Compositional Model of Syntax, Bernardy, Lappin, 2022,
    arXiv:2208.05719. Departure: the paper has one matrix for each symbol, here x may be anything.
    """

    lane = Lane.HEAD
    paper = Paper(
        "Assessing the Unitary RNN as an End-to-End Compositional Model of Syntax",
        "Bernardy, Lappin",
        2022,
        "2208.05719",
    )

    def __init__(self, width: int, heads: int | None = None, size: int | None = None):
        super().__init__(width)
        fewest = next(n for n in range(1, width + 1) if width % n == 0 and width // n <= 16)
        self.heads = fewest if heads is None else options.count("heads", heads)
        self.size = options.whole("size", max(-(-width // self.heads), 2) if size is None else size, 2)
        self.to_turn = Linear(width, self.heads * (self.size * (self.size - 1) // 2))

    def start(self) -> dict[str, Tensor]:
        return {"h": torch.eye(1, self.size).repeat(self.heads, 1)}

    def inputs(self, x: Tensor) -> dict[str, Tensor]:
        turn = self.to_turn(x).unflatten(-1, (self.heads, -1))
        rows, columns = torch.triu_indices(self.size, self.size, 1, device=x.device)
        zeros = turn.new_zeros(*turn.shape[:-1], self.size**2)
        A = zeros.scatter(-1, (rows * self.size + columns).expand_as(turn), turn)
        return {"A": A.unflatten(-1, (self.size, -1))}

    def step(self, h: Tensor, A: Tensor) -> tuple[Tensor, Tensor]:
        h = exponential(A - A.T) @ h
        return h, h


def exponential(A: Tensor) -> Tensor:
    """exp(A) of A [n, n]: that of A halved until |A|_1 <= 1/2, by its Taylor polynomial of degree 15, squared as often.

    Of a matrix so large that `HALVINGS` are not enough it is NaN. All of it is written without a branch, as a step is.
    """
    norm = A.detach().abs().sum(0).amax()
    *halved, beyond = [norm > 2.0**i for i in range(-1, HALVINGS)]
    scale = torch.where(beyond, torch.nan, torch.ones_like(norm))
    for once_more in halved:
        scale = torch.where(once_more, scale / 2, scale)
    A = A * scale
    A2 = A @ A
    A3, A4, one = A2 @ A, A2 @ A2, torch.eye(len(A), dtype=A.dtype, device=A.device)
    # Sixteen terms as four times four, of which one product with A^4 each takes the later ones along.
    f = math.factorial
    terms = [one / f(n) + A / f(n + 1) + A2 / f(n + 2) + A3 / f(n + 3) for n in (0, 4, 8, 12)]
    U = terms.pop()
    while terms:
        U = terms.pop() + A4 @ U
    for once_more in halved:
        U = torch.where(once_more, U @ U, U)
    return U
