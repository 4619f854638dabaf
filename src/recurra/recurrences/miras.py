"""What Moneta, Yaad and Memora share: a network per head that learns at test time, with other losses and retentions."""

import torch
from torch import Tensor, nn

from recurra import options
from recurra.nn.linear import Linear
from recurra.pointwise import rms_norm
from recurra.problem import StepInput, constant
from recurra.recurrence import Paper, Recurrence
from recurra.recurrences.delta_net import head_count, unit
from recurra.windows import Past

PAPER = Paper(
    "It's All Connected: A Journey Through Test-Time Memorization, Attentional Bias, Retention, and Online "
    "Optimization",
    "Behrouz, Razaviyayn, Zhong, Mirrokni",
    2025,
    "2504.13173",
)


class Miras(Recurrence):
    """S_t = alpha_t S_{t-1} - eta_t grad l(W_{t-1}; k_t, v_t),  W_t = g(S_t),  y_t = f(q_t; W_t)
    l(W; k, v) = L(f(k; W) - v),  f(x; W) = x + layernorm(W_2 gelu(W_1 x)).

    A subclass gives the loss L and the map g from what is kept, S, to the weights W; both are [4K, K] and [K, 4K].
    Lane: a head, q, k, v: [K] with K = D/heads, 64 by default. q = unit(silu(conv(W_q x))), k alike,
    v = silu(conv(W_v x)), with unit(z) = z / |z|. alpha, eta in (0, 1) and delta > 0, numbers, are sigmoids and a
    softplus of affine maps of x. The layer norm has its own weight and bias in each head; gelu is taken by tanh. The
    result is W_o (rmsnorm(y) * silu(W_g x)), norm within each head.
    Initialisation: S is learned and starts normal with variance 1 / columns; the biases of alpha, eta and delta start
    where they give 0.99, 0.01 and 0.2.

    Source: It's All Connected, Behrouz, Razaviyayn, Zhong, Mirrokni, 2025, arXiv:2504.13173, whose f, losses,
    retentions, convolutions and unit are these, and |e| = sqrt(e^2 + 1e-6) in Moneta. Departures: the gradient is taken
    at W_{t-1} in every time step, where the paper takes it at the start of a chunk; alpha, eta and delta are one number
    per head, where the paper has one per channel, through maps of low rank, without saying along which axis of a
    matrix. It gives no equation for the norm and gate of the result, nor the initialisation, nor the layer norm's
    epsilon: 0.01, which keeps the memory's slopes finite.
    """

    def __init__(self, width: int, heads: int | None = None, kernel: int = 4):
        super().__init__(width)
        heads = self.heads = head_count(heads, width, 64)
        size = self.size = width // heads
        self.windows = {"conv": (3 * width, options.count("kernel", kernel) - 1)}
        self.to_qkv = Linear(width, 3 * width, bias=False)
        self.conv_weight = nn.Parameter(torch.empty(3 * width, kernel).uniform_(-(kernel**-0.5), kernel**-0.5))
        self.to_rates = Linear(width, 3 * heads)
        with torch.no_grad():
            self.to_rates.bias.copy_(torch.tensor([4.6, -4.6, -1.5]).repeat_interleave(heads))
        self.S1 = nn.Parameter(torch.randn(heads, 4 * size, size) * size**-0.5)
        self.S2 = nn.Parameter(torch.randn(heads, size, 4 * size) * (4 * size) ** -0.5)
        self.memory_weight = nn.Parameter(torch.ones(heads, size))
        self.memory_bias = nn.Parameter(torch.zeros(heads, size))
        self.norm_weight = nn.Parameter(torch.ones(size))
        self.to_gate, self.to_output = (Linear(width, width, bias=False) for _ in range(2))

    def start(self) -> dict[str, Tensor]:
        return {"S1": self.S1, "S2": self.S2}

    def inputs(self, x: Tensor, past: Past) -> dict[str, Tensor | StepInput]:
        qkv = past.convolve("conv", self.to_qkv(x), self.conv_weight, silu=True)
        q, k, v = (part.unflatten(-1, (self.heads, -1)) for part in qkv.chunk(3, -1))
        rates = dict(zip(("alpha", "eta", "delta"), self.to_rates(x).chunk(3, -1), strict=True))
        norm = {"scale": constant(self.memory_weight), "shift": constant(self.memory_bias)}
        return {"q": unit(q), "k": unit(k), "v": v} | rates | norm

    def loss(self, error: Tensor, delta: Tensor) -> Tensor:  # noqa: ARG002
        """L, a number; by default the sum of squares."""
        return error.square().sum()

    def weights(self, S: Tensor) -> tuple[Tensor, Tensor]:
        """W = g(S), and what of S is kept; by default both are S."""
        return S, S

    def step(
        self, *S: Tensor, q: Tensor, k: Tensor, v: Tensor, alpha: Tensor, eta: Tensor, delta: Tensor, scale: Tensor,
        shift: Tensor,
    ) -> tuple[tuple[Tensor, ...], Tensor]:  # fmt: skip
        def f(x: Tensor, W: tuple[Tensor, ...]) -> Tensor:
            m = W[1] @ nn.functional.gelu(W[0] @ x, approximate="tanh")
            m = m - m.mean()
            return x + m * torch.rsqrt(m.square().mean() + 0.01) * scale + shift

        alpha, eta, delta = torch.sigmoid(alpha), torch.sigmoid(eta), nn.functional.softplus(delta)
        W, kept = zip(*map(self.weights, S), strict=True)
        slopes = torch.func.grad(lambda W: self.loss(f(k, W) - v, delta))(W)
        S = tuple(alpha * s - eta * slope for s, slope in zip(kept, slopes, strict=True))
        return S, f(q, tuple(self.weights(s)[0] for s in S))

    def outputs(self, y: Tensor, x: Tensor) -> Tensor:
        gate = nn.functional.silu(self.to_gate(x))
        return self.to_output(rms_norm(y, self.norm_weight, 1e-5).flatten(2) * gate)
