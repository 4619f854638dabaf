"""The gated Oja rule: the delta rule with keys and values exchanged, a memory that erases along its values."""

import torch
from torch import Tensor

from recurra.problem import Lane
from recurra.recurrence import Paper
from recurra.recurrences.delta_net import unit
from recurra.recurrences.kimi_delta_attention import KimiDeltaAttention
from recurra.windows import Past


class GatedOja(KimiDeltaAttention):
    """S' = S_{t-1} diag(a_t),  S_t = S' + beta_t (k_t - S' v_t) v_t^T,  o_t = S_t^T q_t / sqrt(K).

    Lane: a head, S: [K, V], V = K = D / heads; a: [V], a decay per value channel. All else is as in Kimi delta
    attention, but that v is brought to length one as well: what is erased is what the memory holds along v.

    Source: A simplified neuron model as a principal component analyzer, Oja, 1982, with gates as flash-linear-attention
    has the rule, which is the kernel only: what is around it here is Kimi delta attention's.
    """

    lane = Lane.HEAD
    paper = Paper("A simplified neuron model as a principal component analyzer", "Oja", 1982)

    def inputs(self, x: Tensor, past: Past) -> dict[str, Tensor]:
        inputs = super().inputs(x, past)
        return inputs | {"v": unit(inputs["v"])}

    def step(self, S: Tensor, q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor):
        S = S * torch.exp(log_decay)
        S = S + beta * torch.outer(k - S @ v, v)
        return S, S.T @ q

    as_delta_rule = None  # type: ignore[assignment]  # it reads along the keys, which are the values of the rule
