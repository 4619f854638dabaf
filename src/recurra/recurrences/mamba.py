"""Mamba's selective state space layer (S6) with its short convolution and gate."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from recurra import options
from recurra.nn.linear import Linear
from recurra.problem import Lane, StepInput, constant, shared
from recurra.recurrence import Paper, Recurrence
from recurra.recurrences.blocks import BlockLinear
from recurra.recurrences.discretisation import lengthened
from recurra.windows import Past


class Mamba(Recurrence):
    """h_t = exp(dt_t A) h_{t-1} + dt_t u_t B_t,  y_t = C_t . h_t + D u_t.

    Lane: a channel with a state h: [N]. u = silu(conv(W_u x)); dt = softplus(W_dt u + b_dt) per channel; B_t and
    C_t: [N], linear in u, shared between channels; A: [E, N] negative. The result is W_o (y * silu(W_g x)). With
    `bias`, W_u, W_g and W_o have one; without `conv_bias` the convolution has none.

    With `heads`, channels are cut into as many groups, each with a dt, B and C of its own, linear in its own channels.
    `elapsed` multiplies dt. With `negative_eigenvalues` h_{t-1} is multiplied by 2 exp(dt_t A) - 1, in (-1, 1).

    W_u above W_g is the published `in_proj`, one matrix here too.

    Source: Mamba: Linear-Time Sequence Modeling with Selective State Spaces, Gu, Dao, 2023, arXiv:2312.00752;
    heads: Zamba, Glorioso et al., 2024, arXiv:2405.16712;
    factors below zero: Unlocking State-Tracking in Linear RNNs Through Negative Eigenvalues, Grazzi, Siems, Zela,
    Franke, Hutter, Pontil, 2024, arXiv:2411.12537.
    """

    lane = Lane.CHANNEL
    paper = Paper("Mamba: Linear-Time Sequence Modeling with Selective State Spaces", "Gu, Dao", 2023, "2312.00752")

    def __init__(
        self,
        width: int,
        state_size: int = 16,
        expand: int = 2,
        kernel: int = 4,
        rank: int | None = None,
        bias: bool = False,
        conv_bias: bool = True,
        negative_eigenvalues: bool = False,
        heads: int = 1,
    ):
        super().__init__(width)
        options.flag("bias", bias)
        self.negative_eigenvalues = options.flag("negative_eigenvalues", negative_eigenvalues)
        inner, kernel = options.count("expand", expand) * width, options.count("kernel", kernel)
        rank = math.ceil(width / 16) if rank is None else options.count("rank", rank)
        options.count("state_size", state_size)
        self.heads = options.divisor("heads", heads, inner, "inner width")
        self.inner, self.split = inner, [rank, state_size, state_size]
        self.windows = {"conv": (inner, kernel - 1)}
        self.to_inner = Linear(width, 2 * inner, bias=bias)
        self.conv_weight = nn.Parameter(torch.empty(inner, kernel).uniform_(-(kernel**-0.5), kernel**-0.5))
        around_zero = torch.empty(inner).uniform_(-(kernel**-0.5), kernel**-0.5)
        self.conv_bias = nn.Parameter(around_zero) if options.flag("conv_bias", conv_bias) else None
        self.to_selection = _linear(heads, inner, heads * (rank + 2 * state_size), bias=False)
        self.to_dt = _linear(heads, heads * rank, inner, bias=True)
        self.A_log = nn.Parameter(torch.log(torch.arange(1.0, state_size + 1)).repeat(inner, 1))
        self.D = nn.Parameter(torch.ones(inner))
        self.to_output = Linear(inner, width, bias=bias)
        # dt starts log-uniform in [0.001, 0.1]: the bias is the inverse of softplus there.
        dt = torch.exp(torch.rand(inner) * math.log(100) + math.log(0.001)).clamp(min=1e-4)
        with torch.no_grad():
            self.to_dt.weight.uniform_(-(rank**-0.5), rank**-0.5)
            self.to_dt.bias.copy_(dt + torch.log(-torch.expm1(-dt)))

    def start(self) -> dict[str, Tensor]:
        return {"h": torch.zeros(self.inner, self.split[1])}

    def inputs(self, x: Tensor, past: Past, *, elapsed: Tensor | None = None) -> dict[str, Tensor | StepInput]:
        signal, gate = self.to_inner(x).chunk(2, -1)
        u = past.convolve("conv", signal, self.conv_weight, self.conv_bias, silu=True)
        dt, B, C = self.selection(u)
        return lengthened(x, elapsed) | {
            "u": u,
            "dt": self.to_dt(dt if self.heads == 1 else dt.flatten(2)),
            "gate": gate,
            "B": self._of_channels(B),
            "C": self._of_channels(C),
            "A": constant(-torch.exp(self.A_log)),
            "D": constant(self.D),
        }

    def selection(self, u: Tensor) -> tuple[Tensor, ...]:
        """What the channels u [B, T, E] select: the `rank` numbers that time steps are made of, B and C; with several
        heads [B, T, heads, ...] each."""
        selected = self.to_selection(u)
        return (selected if self.heads == 1 else selected.unflatten(-1, (self.heads, -1))).split(self.split, -1)

    def _of_channels(self, selected: Tensor) -> StepInput:
        """B or C as every channel reads it."""
        if self.heads == 1:
            return shared(selected)
        return StepInput(selected.repeat_interleave(self.inner // self.heads, 2))

    def step(
        self, h: Tensor, u: Tensor, dt: Tensor, gate: Tensor, B: Tensor, C: Tensor, A: Tensor, D: Tensor,
        elapsed: Tensor | None = None,
    ):  # fmt: skip
        dt = nn.functional.softplus(dt)
        dt = dt if elapsed is None else elapsed * dt
        decay = torch.exp(dt * A)
        h = (2 * decay - 1 if self.negative_eigenvalues else decay) * h + dt * u * B
        return h, ((C * h).sum() + D * u) * nn.functional.silu(gate)

    def outputs(self, y: Tensor, x: Tensor) -> Tensor:  # noqa: ARG002
        return self.to_output(y)


def _linear(heads: int, inputs: int, outputs: int, bias: bool) -> Any:
    return Linear(inputs, outputs, bias) if heads == 1 else BlockLinear(heads, inputs, outputs, bias)
