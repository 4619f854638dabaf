"""Memora: a memory whose weights are probabilities, kept near what they were by their relative entropy."""

import torch
from torch import Tensor

from recurra.problem import Lane
from recurra.recurrences.miras import PAPER, Miras


class Memora(Miras):
    """W_t = softmax(S_t),  S_t = alpha_t log W_{t-1} - eta_t grad l(W_{t-1}; k_t, v_t),  y_t = f(q_t; W_t)
    l(W; k, v) = |f(k; W) - v|^2.

    Each row of the two matrices W sums to one: the paper takes the softmax by slices of a matrix, and leaves open along
    which axis they lie. The network f, the block, initialisation, source and departures are in `Miras`.
    """

    lane = Lane.HEAD
    paper = PAPER

    def weights(self, S: Tensor) -> tuple[Tensor, Tensor]:
        """W, and its logarithm."""
        shifted = S - S.amax(-1, keepdim=True)
        log = shifted - torch.log(torch.exp(shifted).sum(-1, keepdim=True))
        return torch.exp(log), log
