"""The unitary-evolution network: every input turns the state, and nothing else happens to it."""

import torch
from torch import Tensor

from recurra import options
from recurra.nn.linear import Linear
from recurra.problem import Lane, compute_dtype
from recurra.recurrence import Paper, Recurrence


class URN(Recurrence):
    """h_t = U_t h_{t-1},  U_t = exp(A_t - A_t^T),  y_t = h_t.

    Lane: a head, h: [n]; A_t: [n, n], strictly upper triangular, is a linear map of x_t, so that U_t is orthogonal and
    the norm of h is one for ever. h_0 is the first unit vector. n = `size`, by default D / heads, 2 at least.

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
        A = zeros.scatter(-1, (rows * self.size + columns).expand_as(turn), turn).unflatten(-1, (self.size, -1))
        # Of half types there is no exponential, and its rounding would stay in the state.
        U = torch.linalg.matrix_exp((A - A.mT).to(compute_dtype(x.dtype)))
        return {"U": U}

    def step(self, h: Tensor, U: Tensor) -> tuple[Tensor, Tensor]:
        h = U @ h
        return h, h
