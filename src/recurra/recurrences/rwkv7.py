"""RWKV-7's time mixing: a matrix memory with a decay per channel and a generalised delta rule."""

import math

import torch
from torch import Tensor, nn

from recurra.nn.linear import Linear
from recurra.problem import DeltaRule, Lane, StepInput, constant
from recurra.recurrence import Paper, Recurrence
from recurra.recurrences.delta_net import head_count
from recurra.windows import Past


class RWKV7(Recurrence):
    """S_t = S_{t-1} (diag(w_t) - kappa_t (a_t kappa_t)^T) + v_t k_t^T
    y_t = g_t * (layernorm(S_t r_t) + (r_t . (rho * k_t)) v_t).

    Lane: a head, S: [K, K] with K = D/heads, 64 by default, all else [K]. Each of r, w, k, v, a, g reads its own mix
    x_t + mu (x_{t-1} - x_t), mu: [D]: r = W_r x, v = W_v x, w = exp(-exp(-1/2) sigmoid(w_0 + lora(x))),
    a = sigmoid(a_0 + lora(x)), g = lora(x), where lora(x) = A f(B x) has a low rank and f is tanh for w, the identity
    for a, sigmoid for g. With c = W_k x: kappa = c k_k / |c k_k|, k = c (1 + (a - 1) k_a). The layer norm has its own
    weight and bias in each head. The result is W_o y.
    Initialisation: mu, w_0, k_k, k_a, rho, a_0 as the authors' code sets them in the first block.

    Source: RWKV-7 "Goose" with Expressive Dynamic State Evolution, Peng, Zhang, Goldstein, Alcaide et al., 2025,
    arXiv:2503.14456. Departures: every layer is like the paper's first, which has no residual of v from the first
    layer; all matrices start as PyTorch's linear maps do, where the authors' code starts W_o and every B at zero.
    """

    lane = Lane.HEAD
    paper = Paper(
        'RWKV-7 "Goose" with Expressive Dynamic State Evolution', "Peng, Zhang, Goldstein et al.", 2025, "2503.14456"
    )

    def __init__(self, width: int, heads: int | None = None):
        super().__init__(width)
        heads = self.heads = head_count(heads, width, 64)
        self.size = width // heads
        self.windows = {"shift": (width, 1)}
        channel = torch.arange(width) / width
        powers = torch.tensor([0.2, 0.9, 0.7, 0.7, 0.9, 0.2])[:, None]
        self.mix = nn.Parameter(1 - channel**powers)  # rows: r, w, k, v, a, g
        self.to_r, self.to_k, self.to_v, self.to_output = (Linear(width, width, bias=False) for _ in range(4))
        rank = max(32, 32 * round(1.8 * width**0.5 / 32))
        self.to_w = low_rank(width, rank, nn.Tanh(), 5 * torch.linspace(0, 1, width) ** 0.85 - 6.5)
        self.to_a = low_rank(width, rank, nn.Identity(), torch.zeros(width))
        self.to_g = low_rank(width, max(32, 32 * round(0.6 * width**0.8 / 32)), nn.Sigmoid(), None)
        self.k_k = nn.Parameter(torch.full((width,), 0.85))
        self.k_a = nn.Parameter(torch.ones(width))
        self.rho = nn.Parameter(torch.zeros(heads, self.size))
        self.norm_weight = nn.Parameter(torch.ones(heads, self.size))
        self.norm_bias = nn.Parameter(torch.zeros(heads, self.size))

    def start(self) -> dict[str, Tensor]:
        return {"S": torch.zeros(self.heads, self.size, self.size)}

    def inputs(self, x: Tensor, past: Past) -> dict[str, Tensor | StepInput]:
        maps = {"r": self.to_r, "w": self.to_w, "k": self.to_k, "v": self.to_v, "a": self.to_a, "g": self.to_g}
        mixes = past.mix("shift", x, self.mix)
        per_time = {name: to(mix) for mix, (name, to) in zip(mixes, maps.items(), strict=True)}
        always: dict[str, Tensor] = {"rho": self.rho, "weight": self.norm_weight, "bias": self.norm_bias}
        always |= {"k_k": self.k_k.view_as(self.rho), "k_a": self.k_a.view_as(self.rho)}
        heads = {name: value.unflatten(-1, (self.heads, -1)) for name, value in per_time.items()}
        return heads | {name: constant(value) for name, value in always.items()}

    def step(
        self, S: Tensor, r: Tensor, w: Tensor, k: Tensor, v: Tensor, a: Tensor, g: Tensor,
        rho: Tensor, weight: Tensor, bias: Tensor, k_k: Tensor, k_a: Tensor,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        kappa, a, k, log_decay = self._keys(w, k, a, k_k, k_a)
        S = S * torch.exp(log_decay) - torch.outer(S @ kappa, a * kappa) + torch.outer(v, k)
        return S, self._read(S @ r, r, k, v, g, rho, weight, bias)

    def _keys(self, w: Tensor, k: Tensor, a: Tensor, k_k: Tensor, k_a: Tensor) -> tuple[Tensor, ...]:
        """kappa, a, k and log w_t, of any number of time steps."""
        a, kappa = torch.sigmoid(a), k * k_k
        kappa = kappa * torch.rsqrt(kappa.square().sum(-1, keepdim=True).clamp(min=1e-24))
        return kappa, a, k * (1 + (a - 1) * k_a), -math.exp(-0.5) * torch.sigmoid(w)

    def _read(
        self, o: Tensor, r: Tensor, k: Tensor, v: Tensor, g: Tensor, rho: Tensor, weight: Tensor, bias: Tensor
    ) -> Tensor:
        """y of what is read of the memory."""
        centred = o - o.mean(-1, keepdim=True)
        # 64e-5 is the authors' eps: 1e-5 times the square of a head size divisor of 8.
        normed = centred * torch.rsqrt(centred.square().mean(-1, keepdim=True) + 64e-5) * weight + bias
        return g * (normed + (r * rho * k).sum(-1, keepdim=True) * v)

    def as_delta_rule(
        self, S: Tensor, r: Tensor, w: Tensor, k: Tensor, v: Tensor, a: Tensor, g: Tensor,
        rho: Tensor, weight: Tensor, bias: Tensor, k_k: Tensor, k_a: Tensor,
    ) -> DeltaRule:  # fmt: skip
        """What kappa finds before the decay, which is never near zero, is taken out under a kappa after it."""
        kappa, a, k, log_decay = self._keys(w, k, a, k_k, k_a)
        return DeltaRule(
            r, k, v, S, log_decay=log_decay, erase=kappa * torch.exp(-log_decay), take=a * kappa,
            result=lambda o, S: (S, self._read(o, r, k, v, g, rho, weight, bias)),
        )  # fmt: skip

    def outputs(self, y: Tensor, x: Tensor) -> Tensor:  # noqa: ARG002
        return self.to_output(y.flatten(2))


def low_rank(width: int, rank: int, activation: nn.Module, bias: Tensor | None) -> nn.Sequential:
    """A map from D to D through `rank` numbers; `bias` is where that of the result starts, if it has one."""
    last = Linear(rank, width, bias=bias is not None)
    if bias is not None:
        last.bias = nn.Parameter(bias)
    return nn.Sequential(Linear(width, rank, bias=False), activation, last)
