"""Longhorn: the state takes the step that solves an online regression in closed form, so that it needs no decay."""

import math

import torch
from torch import Tensor, nn

from recurra import options
from recurra.nn.linear import Linear
from recurra.problem import Lane, StepInput, constant, shared
from recurra.recurrence import Paper, Recurrence
from recurra.windows import Past


class Longhorn(Recurrence):
    """h_t = (1 - d_t k_t^2) h_{t-1} + d_t k_t u_t,  d_t = b_t / (1 + b_t |k_t|^2)
    y_t = (q_t . h_t + D u_t) * silu(z_t).

    Lane: a channel of the inner width E = expand D, h: [N]; b, u, z: numbers; k, q: [N], the same for all channels.
    u = silu(conv(W_u x)), z = W_z x; k, q and r: [`rank`] are linear in u; b = sigmoid(W_b r + b_b). So h_t minimises
    |h - h_{t-1}|^2 + b_t (k_t . h - u_t)^2, with the diagonal of k k^T in place of all of it. The result is W_o y.
    Initialisation: as PyTorch's linear maps and convolutions; D is 1.

    Source: Longhorn: State Space Models are Amortized Online Learners, Liu, Wang, Wu, Feng, Stone, Liu, 2024,
    arXiv:2407.14207, and its published code. `rank` is D / 16 by default, rounded up.
    """

    lane = Lane.CHANNEL
    paper = Paper("Longhorn: State Space Models are Amortized Online Learners", "Liu et al.", 2024, "2407.14207")

    def __init__(self, width: int, state_size: int = 16, expand: int = 2, kernel: int = 4, rank: int | None = None):
        super().__init__(width)
        inner = self.inner = options.count("expand", expand) * width
        rank = math.ceil(width / 16) if rank is None else options.count("rank", rank)
        self.split = [rank, options.count("state_size", state_size), state_size]
        self.windows = {"conv": (inner, options.count("kernel", kernel) - 1)}
        bound = kernel**-0.5
        self.to_inner = Linear(width, 2 * inner, bias=False)
        self.conv_weight = nn.Parameter(torch.empty(inner, kernel).uniform_(-bound, bound))
        self.conv_bias = nn.Parameter(torch.empty(inner).uniform_(-bound, bound))
        self.to_selection = Linear(inner, sum(self.split), bias=False)
        self.to_rate = Linear(rank, inner)
        self.D = nn.Parameter(torch.ones(inner))
        self.to_output = Linear(inner, width, bias=False)

    def start(self) -> dict[str, Tensor]:
        return {"h": torch.zeros(self.inner, self.split[1])}

    def inputs(self, x: Tensor, past: Past) -> dict[str, Tensor | StepInput]:
        signal, gate = self.to_inner(x).chunk(2, -1)
        u = past.convolve("conv", signal, self.conv_weight, self.conv_bias, silu=True)
        rate, k, q = self.to_selection(u).split(self.split, -1)
        return {
            "u": u,
            "rate": self.to_rate(rate),
            "gate": gate,
            "k": shared(k),
            "q": shared(q),
            "D": constant(self.D),
        }

    def step(self, h: Tensor, u: Tensor, rate: Tensor, gate: Tensor, k: Tensor, q: Tensor, D: Tensor):
        b = torch.sigmoid(rate)
        d = b / (1 + b * k.square().sum())
        h = (1 - d * k.square()) * h + d * u * k
        return h, ((q * h).sum() + D * u) * nn.functional.silu(gate)

    def outputs(self, y: Tensor, x: Tensor) -> Tensor:  # noqa: ARG002
        return self.to_output(y)
