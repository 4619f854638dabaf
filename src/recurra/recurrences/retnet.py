"""Retention: a head's matrix state decays by a fixed number and turns by fixed angles at every time step."""

import torch
from torch import Tensor, nn

from recurra import options
from recurra.errors import InputError
from recurra.nn.linear import Linear
from recurra.problem import DeltaRule, Lane, StepInput, compute_dtype, constant
from recurra.recurrence import Paper, Recurrence
from recurra.recurrences.complex_rule import complex_rule
from recurra.recurrences.short_convolution import convolved, taps, window
from recurra.windows import Past


class RetNet(Recurrence):
    """S_t = gamma exp(i theta) S_{t-1} + conj(k_t) v_t^T,  y_t = Re(S_t^T q_t).

    Lane: a head with S: [K/2, V] complex; q, k: [K/2] complex, neighbouring channels of W_q x and W_k x / sqrt(K) as
    real and imaginary part; v: [V]; K = D / heads, V = expand K. gamma = 1 - 2^(-5 - j) in head j = 0, 1, ..., and
    theta goes from 1 down to 1/10000 geometrically: both are fixed. The result is W_o (norm(y) * silu(W_g x)), norm
    over each head without weights.
    With a `kernel` W_q x, W_k x and W_v x go through silu(conv(..)) over so many time steps, as an option of
    flash-linear-attention has it.
    Initialisation: Xavier uniform with gain 2^-2.5, W_o with gain 1.

    Source: Retentive Network: A Successor to Transformer for Large Language Models, Sun, Dong, Huang, Ma, Xia, Xue,
    Wang, Wei, 2023, arXiv:2307.08621. There q_t and k_t are rotated by t theta; only the difference of two positions
    matters, so here the state turns instead and no position is counted. The paper's scalings of the scores cancel in
    the norm but for its 1e-5, and are left out. Published models have K = 256.
    """

    lane = Lane.HEAD
    paper = Paper("Retentive Network: A Successor to Transformer", "Sun et al.", 2023, "2307.08621")

    def __init__(self, width: int, heads: int = 4, expand: int = 2, kernel: int | None = None):
        super().__init__(width)
        self.heads = options.divisor("heads", heads, width, "width")
        self.keys = width // heads
        if self.keys % 2:
            raise InputError(f"heads is {heads}; expected an even number of channels in each, got {self.keys}")
        inner = self.inner = options.count("expand", expand) * width
        self.to_query = Linear(width, width, bias=False)
        self.to_key = Linear(width, width, bias=False)
        self.to_value = Linear(width, inner, bias=False)
        self.conv_weight = taps(2 * width + inner, kernel)
        self.windows = window(self.conv_weight)
        self.to_gate = Linear(width, inner, bias=False)
        self.to_output = Linear(inner, width, bias=False)
        for project in (self.to_query, self.to_key, self.to_value, self.to_gate):
            nn.init.xavier_uniform_(project.weight, gain=2**-2.5)
        nn.init.xavier_uniform_(self.to_output.weight)

    def start(self) -> dict[str, Tensor]:
        return {"S": torch.zeros(self.heads, self.keys // 2, self.inner // self.heads, dtype=torch.complex64)}

    def inputs(self, x: Tensor, past: Past | None = None) -> dict[str, Tensor | StepInput]:
        dtype, device = compute_dtype(x.dtype), x.device
        gamma = 1 - 2.0 ** (-5 - torch.arange(self.heads, dtype=dtype, device=device))
        theta = 10000.0 ** -torch.linspace(0, 1, self.keys // 2, dtype=dtype, device=device)
        vectors = {"q": self.to_query(x), "k": self.to_key(x), "v": self.to_value(x)}
        vectors = convolved(past, self.conv_weight, vectors, silu=True)
        return {
            "q": vectors["q"].unflatten(-1, (self.heads, -1, 2)),
            "k": vectors["k"].unflatten(-1, (self.heads, -1, 2)),
            "v": vectors["v"].unflatten(-1, (self.heads, -1)),
            "gamma": constant(gamma),
            "theta": constant(theta.expand(self.heads, -1)),
        }

    def step(self, S: Tensor, q: Tensor, k: Tensor, v: Tensor, gamma: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
        k = k * self.keys**-0.5
        turn = torch.complex(gamma * torch.cos(theta), gamma * torch.sin(theta))
        S = turn[:, None] * S + torch.complex(k[:, 0], -k[:, 1])[:, None] * v
        return S, S.real.T @ q[:, 0] - S.imag.T @ q[:, 1]

    def as_delta_rule(self, S: Tensor, q: Tensor, k: Tensor, v: Tensor, gamma: Tensor, theta: Tensor) -> DeltaRule:
        return complex_rule(S, q, k * self.keys**-0.5, v, gamma.log(), theta)

    def outputs(self, y: Tensor, x: Tensor) -> Tensor:
        normed = nn.functional.layer_norm(y, y.shape[-1:], eps=1e-5).flatten(2)
        return self.to_output(normed * nn.functional.silu(self.to_gate(x)))
