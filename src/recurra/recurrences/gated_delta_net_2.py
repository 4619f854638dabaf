"""Gated DeltaNet-2: what is erased and what is written have gates of their own, channel by channel."""

import torch
from torch import Tensor

from recurra.nn.linear import Linear
from recurra.problem import DeltaRule, Lane
from recurra.recurrence import Paper
from recurra.recurrences.kimi_delta_attention import KimiDeltaAttention


class GatedDeltaNet2(KimiDeltaAttention):
    """S' = S_{t-1} diag(a_t),  S_t = S' + (w_t * v_t - S' (b_t * k_t)) k_t^T,  o_t = S_t q_t / sqrt(K)
    b_t = sigmoid(W_b x_t),  w_t = sigmoid(W_w x_t).

    Lane: a head; b: [K] says which channels of the key are erased, twice as large with `negative_eigenvalues`, and
    w: [K] how much of each value is written. All else is as in `KimiDeltaAttention`, to which b = w = beta leads back.

    Source: Gated DeltaNet-2: Decoupling Erase and Write in Linear Attention, Hatamizadeh, Choi, Kautz, 2026,
    arXiv:2605.22791, read as flash-linear-attention has it.
    """

    lane = Lane.HEAD
    paper = Paper(
        "Gated DeltaNet-2: Decoupling Erase and Write in Linear Attention",
        "Hatamizadeh, Choi, Kautz",
        2026,
        "2605.22791",
    )

    def _make_rates(self) -> None:
        self.to_erase = Linear(self.width, self.inner, bias=False)
        self.to_write = Linear(self.width, self.inner, bias=False)

    def _rates(self, x: Tensor) -> dict[str, Tensor]:
        erase, write = (torch.sigmoid(to(x)).unflatten(-1, (self.heads, -1)) for to in (self.to_erase, self.to_write))
        return {"erase": self.largest_beta * erase, "write": write}

    def step(self, S: Tensor, q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, erase: Tensor, write: Tensor):
        S = S * torch.exp(log_decay)
        S = S + torch.outer(write * v - S @ (erase * k), k)
        return S, S @ q

    def as_delta_rule(
        self, S: Tensor, q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, erase: Tensor, write: Tensor
    ) -> DeltaRule:
        return DeltaRule(q, k, write * v, S, log_decay=log_decay, erase=erase * k)
