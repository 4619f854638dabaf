"""Gated slot attention: a softmax over a few slots, each of which forgets and takes up keys and values by a gate."""

import torch
from torch import Tensor, nn

from recurra import options
from recurra.nn.linear import Linear
from recurra.pointwise import RMSNorm
from recurra.problem import Lane
from recurra.recurrence import Paper, Recurrence


class GatedSlotAttention(Recurrence):
    """K_t = diag(f_t) K_{t-1} + (1 - f_t) k_t^T,  V_t = diag(f_t) V_{t-1} + (1 - f_t) v_t^T
    o_t = V_t^T softmax(K_t q_t),  f_t = sigmoid(W_f x_t)^(1 / temperature).

    Lane: a head; K: [M, d] and V: [M, d] hold a key and a value in each of M = `slots` slots, by default as many as
    d = D / heads; q, k, v = silu of linear maps of x: [d]; f: [M]. The result is W_o rmsnorm(silu(o)), the norm over
    all heads.
    Initialisation: as PyTorch's linear maps.

    Source: Gated Slot Attention for Efficient Linear-Time Sequence Modeling, Zhang, Yang, Zhu, Zhang, Cui, Wang, Wang,
    Shi, Wang, Bi, Zhou, Fu, 2024, arXiv:2409.07146. As in its published code scores are not scaled.
    """

    lane = Lane.HEAD
    paper = Paper(
        "Gated Slot Attention for Efficient Linear-Time Sequence Modeling", "Zhang et al.", 2024, "2409.07146"
    )

    def __init__(self, width: int, heads: int = 4, slots: int | None = None, temperature: float = 8.0):
        super().__init__(width)
        self.heads = options.divisor("heads", heads, width, "width")
        self.slots = width // heads if slots is None else options.count("slots", slots)
        self.temperature = options.number("temperature", temperature, 1e-6)
        self.to_query = Linear(width, width, bias=False)
        self.to_key = Linear(width, width, bias=False)
        self.to_value = Linear(width, width, bias=False)
        self.to_forget = Linear(width, heads * self.slots, bias=False)
        self.norm = RMSNorm(width, eps=1e-5)
        self.to_output = Linear(width, width, bias=False)

    def start(self) -> dict[str, Tensor]:
        empty = torch.zeros(self.heads, self.slots, self.width // self.heads)
        return {"K": empty, "V": empty.clone()}

    def inputs(self, x: Tensor) -> dict[str, Tensor]:
        return self.vectors(x) | {"forget": self.to_forget(x).unflatten(-1, (self.heads, -1))}

    def vectors(self, x: Tensor) -> dict[str, Tensor]:
        """q, k and v, [B, T, heads, d] each."""
        maps = {"q": self.to_query, "k": self.to_key, "v": self.to_value}
        return {n: nn.functional.silu(to(x)).unflatten(-1, (self.heads, -1)) for n, to in maps.items()}

    def step(
        self, K: Tensor, V: Tensor, q: Tensor, k: Tensor, v: Tensor, forget: Tensor
    ) -> tuple[tuple[Tensor, Tensor], Tensor]:
        return over_slots(K, V, q, k, v, -nn.functional.softplus(-forget) / self.temperature)

    def outputs(self, y: Tensor, x: Tensor) -> Tensor:  # noqa: ARG002
        return self.to_output(self.norm(nn.functional.silu(y.flatten(2))))


def over_slots(
    K: Tensor, V: Tensor, q: Tensor, k: Tensor, v: Tensor, log_f: Tensor
) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """A step of slots that keep exp(log_f) of what they have, and take up a key and a value in place of the rest."""
    keep, admit = torch.exp(log_f)[:, None], -torch.expm1(log_f)
    K = keep * K + torch.outer(admit, k)
    V = keep * V + torch.outer(admit, v)
    return (K, V), V.T @ torch.softmax(K @ q, 0)
