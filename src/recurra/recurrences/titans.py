"""Titans' neural memory: a small network per head that learns at test time, with momentum and forgetting."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from recurra import options
from recurra.nn.linear import Linear
from recurra.pointwise import rms_norm
from recurra.problem import Lane
from recurra.recurrence import Paper, Recurrence
from recurra.recurrences.delta_net import head_count, unit
from recurra.windows import Past


class Titans(Recurrence):
    """M_t = (1 - alpha_t) M_{t-1} + S_t,  S_t = eta_t S_{t-1} - theta_t grad l(M_{t-1}; k_t, v_t),  y_t = f(q_t; M_t)
    l(M; k, v) = |f(k; M) - v|^2.

    Lane: a head, q, k, v: [K] with K = D/heads, 64 by default. The memory M is the weights of f, a network of `depth`
    linear maps with silu between them: f(x) = M_1 x, or M_2 silu(M_1 x), ..., its hidden layers `expand` K wide; S,
    the momentum, has the same shapes. q = unit(silu(conv(W_q x))), k alike, v = silu(conv(W_v x)), with
    unit(z) = z / |z|; alpha, eta and theta, numbers in (0, 1), are sigmoids of affine maps of x. The result is
    W_o (rmsnorm(y) * silu(W_g x)), norm within each head.
    Initialisation: M is learned and starts normal with variance 1 / columns, S at 0; the biases of alpha, eta and theta
    start where the sigmoid gives 0.01, 0.9 and 0.1.

    Source: Titans: Learning to Memorize at Test Time, Behrouz, Zhong, Mirrokni, 2024, arXiv:2501.00663: its long-term
    memory as a layer of its own (LMM). Departures: the gradient is taken at M_{t-1} in every time step, where the paper
    takes it at the start of a chunk. The paper leaves open the network's width and activation, how theta is bounded,
    the norm and initialisation, and speaks of one memory: that is `heads` = 1.
    """

    lane = Lane.HEAD
    paper = Paper("Titans: Learning to Memorize at Test Time", "Behrouz, Zhong, Mirrokni", 2024, "2501.00663")

    def __init__(self, width: int, heads: int | None = None, depth: int = 2, expand: int = 2, kernel: int = 4):
        super().__init__(width)
        heads = self.heads = head_count(heads, width, 64)
        self.size, self.depth = width // heads, options.count("depth", depth, 65)
        self.windows = {"conv": (3 * width, options.count("kernel", kernel) - 1)}
        self.to_qkv = Linear(width, 3 * width, bias=False)
        self.conv_weight = nn.Parameter(torch.empty(3 * width, kernel).uniform_(-(kernel**-0.5), kernel**-0.5))
        self.to_rates = Linear(width, 3 * heads)
        with torch.no_grad():
            self.to_rates.bias.copy_(torch.logit(torch.tensor([0.01, 0.9, 0.1])).repeat_interleave(heads))
        sizes = [self.size, *[options.count("expand", expand) * self.size] * (depth - 1), self.size]
        self.memory = nn.ParameterList(
            torch.randn(heads, rows, columns) * columns**-0.5 for columns, rows in pairwise(sizes)
        )
        self.norm_weight = nn.Parameter(torch.ones(self.size))
        self.to_gate, self.to_output = (Linear(width, width, bias=False) for _ in range(2))

    def start(self) -> dict[str, Tensor]:
        memory = {f"M{i + 1}": weight for i, weight in enumerate(self.memory)}
        return memory | {f"S{i + 1}": torch.zeros_like(weight) for i, weight in enumerate(self.memory)}

    def inputs(self, x: Tensor, past: Past) -> dict[str, Tensor]:
        qkv = past.convolve("conv", self.to_qkv(x), self.conv_weight, silu=True)
        q, k, v = (part.unflatten(-1, (self.heads, -1)) for part in qkv.chunk(3, -1))
        alpha, eta, theta = self.to_rates(x).chunk(3, -1)
        return {"q": unit(q), "k": unit(k), "v": v, "alpha": alpha, "eta": eta, "theta": theta}

    def step(self, *state: Tensor, q: Tensor, k: Tensor, v: Tensor, alpha: Tensor, eta: Tensor, theta: Tensor):
        M, S = state[: self.depth], state[self.depth :]
        M, S = learn(M, S, k, v, alpha, eta, theta)
        return (*M, *S), network(q, M)

    def outputs(self, y: Tensor, x: Tensor) -> Tensor:
        gate = nn.functional.silu(self.to_gate(x))
        return self.to_output(rms_norm(y, self.norm_weight, 1e-5).flatten(2) * gate)


def network(x: Tensor, M: tuple[Tensor, ...]) -> Tensor:
    """f(x; M)."""
    for weight in M[:-1]:
        x = weight @ x
        x = x * torch.sigmoid(x)
    return M[-1] @ x


def learn(
    M: tuple[Tensor, ...], S: tuple[Tensor, ...], k: Tensor, v: Tensor, alpha: Tensor, eta: Tensor, theta: Tensor
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """M_t and S_t; alpha, eta and theta are given before their sigmoid."""
    slopes = torch.func.grad(lambda M: (network(k, M) - v).square().sum())(M)
    eta, theta, keep = torch.sigmoid(eta), torch.sigmoid(theta), torch.sigmoid(-alpha)
    S = tuple(eta * s - theta * slope for s, slope in zip(S, slopes, strict=True))
    return tuple(keep * m + s for m, s in zip(M, S, strict=True)), S
