"""Raven: softmax over a few slots, of which a router picks those that each time step is written to."""

import torch
from torch import Tensor, nn

from recurra import options
from recurra.nn.linear import Linear
from recurra.pointwise import rms_norm
from recurra.problem import Lane
from recurra.recurrence import Paper
from recurra.recurrences.discretisation import softplus_steps
from recurra.recurrences.gated_slot_attention import GatedSlotAttention, over_slots


class Raven(GatedSlotAttention):
    """K_t = diag(f_t) K_{t-1} + (1 - f_t) k_t^T,  V_t = diag(f_t) V_{t-1} + (1 - f_t) v_t^T
    o_t = V_t^T softmax(K_t q_t),  f_t = exp(g_t r_t),  g_t = -exp(A_log) softplus(w x_t + dt_bias).

    r_t: [M], M = `slots`: of sigmoid(R x_t) the `active` largest, divided by their sum, zero in the other slots, which
    keep what they have. Lane: a head; K, V: [M, d], d = D / heads, hold a key and a value in each slot; q, k: [d] are
    rmsnorm(silu(..)), v: [d] is silu(..) of linear maps of x; g: a number. The result is W_o rmsnorm(silu(o)), the norm
    over all heads.
    Initialisation: exp(A_log) uniform in (0, 16], softplus(dt_bias) log-uniform in [0.001, 0.1].

    Source: Raven: High-Recall Sequence Modeling with Sparse Memory Routing, Afzal, Bick, Xing, Cevher, Gu, 2026, and
    its published code. Slots are chosen in float64, so that rounding chooses none, and without the noise that is added
    there while training.
    """

    lane = Lane.HEAD
    paper = Paper(
        "Raven: High-Recall Sequence Modeling with Sparse Memory Routing", "Afzal, Bick, Xing, Cevher, Gu", 2026
    )

    def __init__(self, width: int, heads: int = 4, slots: int = 64, active: int = 32):
        super().__init__(width, heads, slots)
        self.active = options.count("active", active, slots + 1)
        del self.to_forget
        self.to_decay = Linear(width, heads, bias=False)
        self.A_log = nn.Parameter(torch.log(16 * (1 - torch.rand(heads))))
        self.dt_bias = nn.Parameter(softplus_steps(heads))
        self.router = nn.Parameter(torch.empty(heads, slots, width).uniform_(-(width**-0.5), width**-0.5))
        self.query_weight, self.key_weight = (nn.Parameter(torch.ones(width // heads)) for _ in range(2))

    def inputs(self, x: Tensor) -> dict[str, Tensor]:
        inputs = self.vectors(x)
        inputs |= {n: rms_norm(inputs[n], w, 1e-5) for n, w in {"q": self.query_weight, "k": self.key_weight}.items()}
        decay = -torch.exp(self.A_log) * nn.functional.softplus(self.to_decay(x) + self.dt_bias)
        return inputs | {"log_decay": decay[..., None] * self._routes(x)}

    def _routes(self, x: Tensor) -> Tensor:
        """[B, T, heads, slots], zero for those that are not chosen."""
        scores = torch.sigmoid(x.double() @ self.router.double().flatten(0, 1).mT).unflatten(-1, (self.heads, -1))
        best, places = scores.topk(self.active, -1)
        routes = best / (best.sum(-1, keepdim=True) + 1e-9)
        return torch.zeros_like(scores).scatter(-1, places, routes).to(x.dtype)

    def step(
        self, K: Tensor, V: Tensor, q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor
    ) -> tuple[tuple[Tensor, Tensor], Tensor]:
        return over_slots(K, V, q, k, v, log_decay)
