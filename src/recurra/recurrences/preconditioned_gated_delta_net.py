"""Preconditioned Gated DeltaNet: what is written lies less along the key channels that have been written often."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from recurra import options
from recurra.errors import InputError
from recurra.nn.linear import Linear
from recurra.problem import Lane, StepInput, constant
from recurra.recurrence import Paper
from recurra.recurrences.discretisation import softplus_steps
from recurra.recurrences.gated_delta_net import GatedDeltaNet
from recurra.windows import Past


class PreconditionedGatedDeltaNet(GatedDeltaNet):
    """A_t = c_t A_{t-1} + b_t k_t^2,  S' = alpha_t S_{t-1},  S_t = S' + beta_t (v_t - S' k_t) (M_t * k_t)^T
    M_t = squash^(-r / (1 + |r|)),  r = log(A_t + 1e-6) - m,  o_t = S_t q_t / sqrt(K).

    As Gated DeltaNet, with a second state A: [K] in each head, the diagonal of the sum of all k k^T so far, c fading;
    M: [K], between 1 / squash and squash, stands for the inverse of that matrix. c_t = exp(-exp(C_log) softplus(w_c x_t
    + dt_bias)), b_t = sigmoid(w_b x_t), m: a number of each key head. Initialisation: m = -0.2, the rates of c as those
    of alpha.

    Source: Preconditioned DeltaNet: Curvature-aware Sequence Modeling for Linear Recurrences, Tumma, Loo, Rus, 2026,
    arXiv:2604.21100, as read in flash-linear-attention. `squash` is 2 at most: there the memory stays stable.
    """

    lane = Lane.HEAD
    paper = Paper(
        "Preconditioned DeltaNet: Curvature-aware Sequence Modeling for Linear Recurrences", "Tumma, Loo, Rus", 2026,
        "2604.21100",
    )  # fmt: skip
    as_delta_rule = None  # type: ignore[assignment]  # what is written depends on another state

    def __init__(self, width: int, *, squash: float = 1.5, **gated_delta_net: Any):
        if gated_delta_net.get("negative_eigenvalues"):
            raise InputError(
                "negative_eigenvalues is True; expected False: eigenvalues lie between 1 - squash and 1 here, and a "
                "memory that erases twice as much would grow"
            )
        super().__init__(width, **gated_delta_net)
        self.squash = options.number("squash", squash, 1, 2 + 1e-9)
        self.to_curvature = Linear(width, 2 * self.key_heads, bias=False)
        self.curvature_dt_bias = nn.Parameter(softplus_steps(self.key_heads))
        self.curvature_A_log = nn.Parameter(torch.log(16 * (1 - torch.rand(self.key_heads))))
        self.centre = nn.Parameter(torch.full((self.key_heads,), -0.2))

    def start(self) -> dict[str, Tensor]:
        return super().start() | {"A": torch.zeros(self.heads, self.K)}

    def inputs(self, x: Tensor, past: Past) -> dict[str, Tensor | StepInput]:
        group = self.heads // self.key_heads
        dt, admit = self.to_curvature(x).repeat_interleave(group, 2).chunk(2, -1)
        rate, bias = (p.repeat_interleave(group) for p in (self.curvature_A_log, self.curvature_dt_bias))
        more: dict[str, Tensor | StepInput] = {
            "forget": -torch.exp(rate) * nn.functional.softplus(dt + bias),
            "admit": torch.sigmoid(admit),
            "centre": constant(self.centre.repeat_interleave(group)),
        }
        return more | super().inputs(x, past)

    def step(
        self, S: Tensor, A: Tensor, q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, forget: Tensor,
        admit: Tensor, centre: Tensor,
    ):  # fmt: skip
        A = torch.exp(forget) * A + admit * k * k
        S = S * torch.exp(log_decay)
        S = S + beta * torch.outer(v - S @ k, k * preconditioner(A, centre, self.squash))
        return (S, A), S @ q


def preconditioner(A: Tensor, centre: Tensor, squash: float) -> Tensor:
    """M of A [K]."""
    r = torch.log(A + 1e-6) - centre
    return torch.exp(-math.log(squash) * r / (1 + r.abs()))
