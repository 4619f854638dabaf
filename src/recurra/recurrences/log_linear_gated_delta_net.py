"""Log-linear Gated DeltaNet: a corrected memory for every power of two of time steps."""

from typing import Any

import torch
from torch import Tensor, nn

from recurra import options
from recurra.nn.linear import Linear
from recurra.problem import Lane, StepInput
from recurra.recurrences.gated_delta_net import GatedDeltaNet
from recurra.recurrences.log_linear_mamba2 import PAPER, by_levels, carried
from recurra.windows import Past


class LogLinearGatedDeltaNet(GatedDeltaNet):
    """o_t = sum_{s <= t} lambda_{t,l(t,s)} beta_s v_s k_s^T P_{s+1} .. P_t q_t,  P_t = alpha_t (I - beta_t k_t k_t^T).

    As Gated DeltaNet, but what was written is weighted by its level, as in log-linear Mamba-2. Lane: a head, with
    a matrix for each level but 0, S: [levels - 1, V, K]. Initialisation: L = 1.

    Source: as there. As in its published code, q is not divided by sqrt(K).
    """

    lane = Lane.HEAD
    paper = PAPER
    as_delta_rule = None  # type: ignore[assignment]  # as above

    def __init__(self, width: int, *, levels: int = 9, **gated_delta_net: Any):
        super().__init__(width, **gated_delta_net)
        self.level_scale = nn.Parameter(torch.ones(self.heads, options.whole("levels", levels, 2, 25)))
        self.to_levels = Linear(width, self.heads * levels, bias=False)
        self.windows |= {"position": (3, 1)}

    def start(self) -> dict[str, Tensor]:
        return {"S": torch.zeros(self.heads, self.level_scale.shape[1] - 1, self.V, self.K)}

    def inputs(self, x: Tensor, past: Past) -> dict[str, Tensor | StepInput]:
        levels = by_levels(x, past, self.to_levels, self.level_scale)
        inputs = super().inputs(x, past)
        return inputs | levels | {"q": inputs["q"] * self.K**0.5}

    def step(
        self, S: Tensor, q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, share: Tensor,
        joined: Tensor,
    ):  # fmt: skip
        S, written = torch.exp(log_decay) * S, beta * torch.outer(v, k)
        S = S - beta * (S @ k)[..., None] * k
        return carried(S, written, joined), share[0] * (written @ q) + share[1:] @ (S @ q)
