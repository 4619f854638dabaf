"""Mega's multi-dimensional damped moving average."""

import math

import torch
from torch import Tensor, nn

from recurra import options
from recurra.problem import Lane, StepInput, constant
from recurra.recurrence import Paper, Recurrence


class EMA(Recurrence):
    """h_t = (1 - p a) h_{t-1} + p b x_t,  y_t = sum over n of c h_t / sqrt(N) + d x_t,  p = sigmoid(P), a = sigmoid(A).

    Lane: a channel, h, p, a, b, c: [N], d: a number; N = `state_size` averages with decays of their own. The layer is
    silu(y). After a time `elapsed` between two steps, all is as if x had stood still for it.
    Initialisation: P and A normal with deviation 0.2, b 1 and -1 in turn, c and d standard normal.

    Source: Mega: Moving Average Equipped Gated Attention, Ma et al., 2022, arXiv:2209.10655: its moving average alone.
    Departure: b has no small noise.
    """

    lane = Lane.CHANNEL
    paper = Paper("Mega: Moving Average Equipped Gated Attention", "Ma et al.", 2022, "2209.10655")

    def __init__(self, width: int, state_size: int = 2):
        super().__init__(width)
        N = options.count("state_size", state_size)
        self.P, self.A = (nn.Parameter(torch.randn(width, N) * 0.2) for _ in range(2))
        self.B = nn.Parameter((1 - 2 * (torch.arange(N) % 2)).to(self.P.dtype).repeat(width, 1))
        self.C, self.D = nn.Parameter(torch.randn(width, N)), nn.Parameter(torch.randn(width))

    def start(self) -> dict[str, Tensor]:
        return {"h": torch.zeros(self.P.shape)}

    def inputs(self, x: Tensor, *, elapsed: Tensor | None = None) -> dict[str, Tensor | StepInput]:
        p, a = torch.sigmoid(self.P), torch.sigmoid(self.A)
        decay, b = constant(1 - p * a), constant(p * self.B)
        if elapsed is not None:
            # h goes towards B x / a, in one time step p a of the way.
            left = elapsed.to(x.dtype)[..., None, None] * torch.log1p(-p * a)
            way, least = -torch.expm1(left), torch.finfo(a.dtype).tiny
            decay, b = StepInput(1 - way), StepInput(way / a.clamp(min=least) * self.B)
        c = self.C / math.sqrt(self.C.shape[1])
        return {"x": x, "decay": decay, "b": b, "c": constant(c), "d": constant(self.D)}

    def step(self, h: Tensor, x: Tensor, decay: Tensor, b: Tensor, c: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
        h = decay * h + b * x
        return h, (c * h).sum() + d * x

    def outputs(self, y: Tensor, x: Tensor) -> Tensor:  # noqa: ARG002
        return nn.functional.silu(y)
