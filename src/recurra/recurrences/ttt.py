"""Test-time training layers: the state of a head is a small model, and every time step trains it by one gradient."""

import torch
from torch import Tensor, nn

from recurra import options
from recurra.nn.linear import Linear
from recurra.problem import Lane, StepInput, constant
from recurra.recurrence import Paper, Recurrence
from recurra.recurrences.delta_net import head_count
from recurra.windows import Past

PAPER = Paper(
    "Learning to (Learn at Test Time): RNNs with Expressive Hidden States", "Sun, Li, Dalal et al.", 2024, "2407.04620"
)


class TestTimeTraining(Recurrence):
    """W_t = W_{t-1} - eta_t grad l(W_{t-1}; k_t, v_t),  z_t = f(q_t; W_t)
    l(W; k, v) = |f(k; W) - v|^2,  f(x; W) = x + layernorm(m(x; W)).

    Lane: a head, q, k, v: [K] with K = D/heads, 64 by default; W: the weights of the model m of a subclass.
    q = conv_q(u) and k = conv_k(u) with u = W_qk x; v = W_v x; eta = `base_rate` sigmoid(w_h . x + b_h) / 2K. The layer
    norm in f has a weight and bias for each head. The result is W_o (layernorm(z) * gelu(W_g x)), norm over the width.
    Initialisation: weights of m normal with deviation 0.02 and learned, its biases 0.

    Source: Learning to (Learn at Test Time): RNNs with Expressive Hidden States, Sun, Li, Dalal, Xu, Vikram, Zhang,
    Dubois et al., 2024, arXiv:2407.04620, with the block of its Mamba backbone. Departures: the gradient is taken at
    W_{t-1} in every time step (online, mini-batch size 1), where the paper takes it at the end of the last mini-batch
    of 16; then the rotation of q and k by their place in the mini-batch is none. The 1/2K in eta is that of the
    authors' code.
    """

    base_rate: float
    hidden: int = 1
    """Width of the first map of m in multiples of K."""

    def __init__(self, width: int, heads: int | None = None, kernel: int = 4):
        super().__init__(width)
        heads = self.heads = head_count(heads, width, 64)
        size = self.size = width // heads
        self.windows = dict.fromkeys(("q", "k"), (width, options.count("kernel", kernel) - 1))
        self.to_qk, self.to_v, self.to_gate, self.to_output = (Linear(width, width, bias=False) for _ in range(4))
        self.conv_weight = nn.Parameter(torch.empty(2, width, kernel).uniform_(-(kernel**-0.5), kernel**-0.5))
        self.conv_bias = nn.Parameter(torch.empty(2, width).uniform_(-(kernel**-0.5), kernel**-0.5))
        self.to_rate = Linear(width, heads)
        nn.init.normal_(self.to_rate.weight, std=0.02)
        nn.init.zeros_(self.to_rate.bias)
        self.W1 = nn.Parameter(torch.randn(heads, self.hidden * size, size) * 0.02)
        self.b1 = nn.Parameter(torch.zeros(heads, self.hidden * size))
        self.norm_weight = nn.Parameter(torch.ones(heads, size))
        self.norm_bias = nn.Parameter(torch.zeros(heads, size))
        self.post_norm = nn.LayerNorm(width, eps=1e-6)

    def start(self) -> dict[str, Tensor]:
        return {"W1": self.W1, "b1": self.b1}

    def inputs(self, x: Tensor, past: Past) -> dict[str, Tensor | StepInput]:
        u = self.to_qk(x)
        q, k = (past.convolve(n, u, w, b) for n, w, b in zip("qk", self.conv_weight, self.conv_bias, strict=True))
        q, k, v = (part.unflatten(-1, (self.heads, -1)) for part in (q, k, self.to_v(x)))
        rate = self.base_rate * torch.sigmoid(self.to_rate(x)) / (2 * self.size)
        norm = {"scale": constant(self.norm_weight), "shift": constant(self.norm_bias)}
        return {"q": q, "k": k, "v": v, "rate": rate} | norm

    def model(self, x: Tensor, W1: Tensor, b1: Tensor) -> Tensor:
        """m(x; W), [K]."""
        return W1 @ x + b1

    def step(self, *W: Tensor, q: Tensor, k: Tensor, v: Tensor, rate: Tensor, scale: Tensor, shift: Tensor):
        def f(x: Tensor, W: tuple[Tensor, ...]) -> Tensor:
            m = self.model(x, *W)
            m = m - m.mean()
            return x + m * torch.rsqrt(m.square().mean() + 1e-6) * scale + shift

        slopes = torch.func.grad(lambda W: (f(k, W) - v).square().sum())(W)
        W = tuple(weight - rate * slope for weight, slope in zip(W, slopes, strict=True))
        return W, f(q, W)

    def outputs(self, y: Tensor, x: Tensor) -> Tensor:
        return self.to_output(self.post_norm(y.flatten(2)) * nn.functional.gelu(self.to_gate(x), approximate="tanh"))


class TTTLinear(TestTimeTraining):
    """m(x; W) = W_1 x + b_1, W_1: [K, K]; the base rate is 1.

    All else is in `TestTimeTraining`.
    """

    lane = Lane.HEAD
    paper = PAPER
    base_rate = 1.0


class TTTMLP(TestTimeTraining):
    """m(x; W) = W_2 gelu(W_1 x + b_1) + b_2, W_1: [4K, K], W_2: [K, 4K]; the base rate is 0.1, gelu by tanh."""

    lane = Lane.HEAD
    paper = PAPER
    base_rate = 0.1
    hidden = 4

    def __init__(self, width: int, heads: int | None = None, kernel: int = 4):
        super().__init__(width, heads, kernel)
        self.W2 = nn.Parameter(torch.randn(self.heads, self.size, 4 * self.size) * 0.02)
        self.b2 = nn.Parameter(torch.zeros(self.heads, self.size))

    def start(self) -> dict[str, Tensor]:
        return super().start() | {"W2": self.W2, "b2": self.b2}

    def model(self, x: Tensor, W1: Tensor, b1: Tensor, W2: Tensor, b2: Tensor) -> Tensor:
        """m(x; W), [K]."""
        return W2 @ nn.functional.gelu(W1 @ x + b1, approximate="tanh") + b2
