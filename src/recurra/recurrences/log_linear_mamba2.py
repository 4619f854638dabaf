"""Log-linear Mamba-2: a memory for every power of two, so that what is near is kept apart from what is far."""

from typing import Any

import torch
from torch import Tensor, nn

from recurra import options
from recurra.nn.linear import Linear
from recurra.problem import Lane, StepInput, shared
from recurra.recurrence import Paper
from recurra.recurrences.mamba2 import Mamba2
from recurra.windows import Past

PAPER = Paper("Log-Linear Attention", "Guo, Yang, Goel, Xing, Dao, Kim", 2025, "2506.04761")


class LogLinearMamba2(Mamba2):
    """y_t = sum_{s <= t} lambda_{t,l(t,s)} a_{s+1} .. a_t dt_s (B_s . C_t) u_s + D u_t,  a_t = exp(dt_t A),
    l(t, s) = the number of binary digits of t xor s, `levels` - 1 at most;  t = 0, 1, 2, ..

    As Mamba-2, but what was written is weighted by its level l(t, s): 0 for time step t itself, 1 for the one before
    if t is odd, and so on, 2^(l-1) time steps in level l or none. Lane: a head, with a matrix for each level
    but 0, S: [levels - 1, P, N]; where the binary digits of t carry, levels are added up into one. lambda: [levels], is
    softplus(L * W_l x), L: [H, levels]. Initialisation: L = 1.

    Source: Log-Linear Attention, Guo, Yang, Goel, Xing, Dao, Kim, 2025, arXiv:2506.04761, and its published code, which
    has 15 levels, for 16384 time steps, and N = 128; by default all levels together are as large here. The last level
    holds all that is older, so that no sequence is too long; t is counted modulo 2^(levels - 2).
    """

    lane = Lane.HEAD
    paper = PAPER
    as_delta_rule = None  # type: ignore[assignment]  # what is kept depends on the level, and that on the time

    def __init__(self, width: int, state_size: int = 16, *, levels: int = 9, **mamba2: Any):
        super().__init__(width, state_size, **mamba2)
        heads = self.shape[0]
        self.level_scale = nn.Parameter(torch.ones(heads, options.whole("levels", levels, 2, 25)))
        self.to_levels = Linear(width, heads * levels, bias=False)
        self.windows |= {"position": (3, 1)}

    def start(self) -> dict[str, Tensor]:
        return {"S": torch.zeros(self.shape[0], self.level_scale.shape[1] - 1, *self.shape[1:])}

    def inputs(self, x: Tensor, past: Past, *, elapsed: Tensor | None = None) -> dict[str, Tensor | StepInput]:
        return super().inputs(x, past, elapsed=elapsed) | by_levels(x, past, self.to_levels, self.level_scale)

    def step(
        self, S: Tensor, u: Tensor, gate: Tensor, dt: Tensor, B: Tensor, C: Tensor, A: Tensor, D: Tensor,
        share: Tensor, joined: Tensor, elapsed: Tensor | None = None,
    ):  # fmt: skip
        dt, factor = self._factor(dt, A, elapsed)
        S, written = factor * S, torch.outer(dt * u, B)
        y = share[0] * (written @ C) + share[1:] @ (S @ C) + D * u
        return carried(S, written, joined), y * nn.functional.silu(gate)


def by_levels(x: Tensor, past: Past, to_levels: nn.Module, scale: Tensor) -> dict[str, Tensor | StepInput]:
    """lambda, and the level that what is written in each time step is carried to."""
    share = nn.functional.softplus(scale * to_levels(x).unflatten(-1, scale.shape))
    levels = scale.shape[1] - 1
    after = past.count("position", x, 2 ** (levels - 1)) + 1
    joined = sum((after % 2**level == 0).to(x.dtype) for level in range(levels))
    return {"share": share, "joined": shared(joined)}


def carried(S: Tensor, written: Tensor, joined: Tensor) -> Tensor:
    """The levels after a time step: what it wrote goes up to level `joined`, with what lies below."""
    levels = []
    for level, kept in enumerate(S.unbind(), 1):
        levels.append(torch.where(joined > level, 0, torch.where(joined == level, kept + written, kept)))
        written = torch.where(joined > level, kept + written, written)
    return torch.stack(levels)
