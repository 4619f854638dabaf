"""Yaad: a memory that learns by a Huber loss, so that an outlier does not overwrite it."""

import torch
from torch import Tensor

from recurra.problem import Lane
from recurra.recurrences.miras import PAPER, Miras


class Yaad(Miras):
    """W_t = alpha_t W_{t-1} - eta_t grad l(W_{t-1}; k_t, v_t),  y_t = f(q_t; W_t),  e = f(k_t; W) - v_t
    l = |e|^2 where |e| <= delta_t, else delta_t sum_i |e_i|.

    This is the last of the paper's three losses after Huber, the one its Yaad uses; |e_i|, as the paper has it, is
    softened, to sqrt(e_i^2 + 0.01): with the paper's 1e-6 the slope turns so sharply at 0 that gradients in float32
    lose most of their digits. The network f, the block, initialisation, source and departures are in `Miras`.
    """

    lane = Lane.HEAD
    paper = PAPER

    def loss(self, error: Tensor, delta: Tensor) -> Tensor:
        """L, a number."""
        square = error.square()
        return torch.where(square.sum() <= delta * delta, square.sum(), delta * torch.sqrt(square + 0.01).sum())
