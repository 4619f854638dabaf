"""FalconMamba's layer: Mamba with norms on what is selected."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from recurra import options
from recurra.pointwise import rms_norm
from recurra.problem import Lane
from recurra.recurrence import Paper
from recurra.recurrences.mamba import Mamba


class FalconMamba(Mamba):
    """h_t = exp(dt_t A) h_{t-1} + dt_t u_t B_t,  y_t = C_t . h_t + D u_t.

    As Mamba, but B_t, C_t: [N] and the [rank] numbers that dt_t is linear in are each divided by their root mean square
    (of squares plus `eps`), without weights; with `weighted`, times a weight for each number, as in Jamba
    (arXiv:2403.19887). Of a single number the norm would leave the sign, so `rank` is at least 2 by default.

    Source: Falcon Mamba: The First Competitive Attention-free 7B Language Model, Zuo et al., 2024, arXiv:2410.05355.
    """

    lane = Lane.CHANNEL
    paper = Paper("Falcon Mamba: The First Competitive Attention-free 7B Model", "Zuo et al.", 2024, "2410.05355")

    def __init__(self, width: int, *, rank: int | None = None, eps: float = 1e-6, weighted: bool = False, **mamba: Any):
        fewest = max(2, math.ceil(options.count("width", width) / 16))
        super().__init__(width, rank=fewest if rank is None else rank, **mamba)
        self.eps = options.number("eps", eps, 0)
        sizes = self.split if options.flag("weighted", weighted) else []
        self.norm_weights = nn.ParameterList([torch.ones(size) for size in sizes])

    def selection(self, u: Tensor) -> tuple[Tensor, ...]:
        weights = list(self.norm_weights) or [None] * 3
        return tuple(rms_norm(part, w, self.eps) for part, w in zip(super().selection(u), weights, strict=True))
