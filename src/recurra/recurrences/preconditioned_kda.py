"""Preconditioned Kimi delta attention: what is written lies less along key channels that have been written often."""

import torch
from torch import Tensor, nn

from recurra import options
from recurra.nn.linear import Linear
from recurra.problem import Lane, StepInput, constant
from recurra.recurrence import Paper
from recurra.recurrences.discretisation import softplus_steps
from recurra.recurrences.kimi_delta_attention import KimiDeltaAttention
from recurra.recurrences.preconditioned_gated_delta_net import PreconditionedGatedDeltaNet
from recurra.windows import Past


class PreconditionedKDA(KimiDeltaAttention):
    """A_t = c_t A_{t-1} + b_t k_t^2,  S' = S_{t-1} diag(a_t),  S_t = S' + beta_t (v_t - S' k_t) (M_t * k_t)^T
    M_t = squash^(-r / (1 + |r|)),  r = log(A_t + 1e-6) - m,  o_t = S_t q_t / sqrt(K).

    As Kimi delta attention, with a second state A: [K] in each head, the diagonal of the sum of all k k^T so far, c
    fading; M: [K], between 1 / squash and squash, stands for the inverse of that matrix. c_t = exp(-exp(C_log)
    softplus(w_c x_t + dt_bias)), b_t = sigmoid(w_b x_t), m: a number of each head.
    Initialisation: m = -0.2, exp(C_log) uniform in [1, 16), softplus(dt_bias) log-uniform in [0.001, 0.1].

    Source: Preconditioned DeltaNet: Curvature-aware Sequence Modeling for Linear Recurrences, Tumma, Loo, Rus, 2026,
    arXiv:2604.21100, as read in flash-linear-attention. `squash` is 2 at most: there the memory stays stable,
    its eigenvalues between 1 - squash and 1, whatever the option that turns signs elsewhere.
    """

    lane = Lane.HEAD
    paper = Paper(
        "Preconditioned DeltaNet: Curvature-aware Sequence Modeling for Linear Recurrences", "Tumma, Loo, Rus", 2026,
        "2604.21100",
    )  # fmt: skip
    as_delta_rule = None  # type: ignore[assignment]  # what is written depends on another state

    def __init__(self, width: int, heads: int | None = None, kernel: int = 4, squash: float = 1.5):
        super().__init__(width, heads, kernel)
        self.squash = options.number("squash", squash, 1, 2 + 1e-9)
        self.to_curvature = Linear(width, 2 * self.heads, bias=False)
        self.curvature_dt_bias = nn.Parameter(softplus_steps(self.heads))
        self.curvature_A_log = nn.Parameter(torch.log(torch.empty(self.heads).uniform_(1, 16)))
        self.centre = nn.Parameter(torch.full((self.heads,), -0.2))

    def start(self) -> dict[str, Tensor]:
        return super().start() | {"A": torch.zeros(self.heads, self.size)}

    def inputs(self, x: Tensor, past: Past) -> dict[str, Tensor | StepInput]:
        dt, admit = self.to_curvature(x).chunk(2, -1)
        forget = -torch.exp(self.curvature_A_log) * nn.functional.softplus(dt + self.curvature_dt_bias)
        more: dict[str, Tensor | StepInput] = {
            "forget": forget,
            "admit": torch.sigmoid(admit),
            "centre": constant(self.centre),
        }
        return more | super().inputs(x, past)

    step = PreconditionedGatedDeltaNet.step  # type: ignore[assignment]  # a decay of each key channel where that has one of each head
