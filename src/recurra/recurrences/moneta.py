"""Moneta: a memory that learns by an l_p loss and keeps its weights short in an l_q norm."""

from torch import Tensor

from recurra import options
from recurra.problem import Lane
from recurra.recurrences.miras import PAPER, Miras


class Moneta(Miras):
    """S_t = alpha_t S_{t-1} - eta_t grad l(W_{t-1}; k_t, v_t),  W_t = S_t / ||S_t||_q^(q - 2),  y_t = f(q_t; W_t)
    l(W; k, v) = sum_i |f(k; W)_i - v_i|^p.

    The norm is over each of the two matrices; p = 3 and q = 4. |e|, as the paper has it, is sqrt(e^2 + 1e-6); the same
    is added to ||S||_q^q. The network f, the block, initialisation, source and departures are in `Miras`.
    """

    lane = Lane.HEAD
    paper = PAPER

    def __init__(self, width: int, heads: int | None = None, kernel: int = 4, p: float = 3.0, q: float = 4.0):
        super().__init__(width, heads, kernel)
        self.p, self.q = options.number("p", p, 1), options.number("q", q, 2)

    def loss(self, error: Tensor, delta: Tensor) -> Tensor:  # noqa: ARG002
        """L, a number."""
        return ((error.square() + 1e-6) ** (self.p / 2)).sum()

    def weights(self, S: Tensor) -> tuple[Tensor, Tensor]:
        """W, and S as it is."""
        return S * ((S.square() ** (self.q / 2)).sum() + 1e-6) ** ((2 - self.q) / self.q), S
