"""RWKV-6's time mixing: a matrix memory with data-dependent decays, read with a bonus before it is written."""

import torch
from torch import Tensor, nn

from recurra import options
from recurra.nn.linear import Linear
from recurra.problem import DeltaRule, Lane, StepInput, constant
from recurra.recurrence import Paper, Recurrence
from recurra.recurrences.delta_net import head_count
from recurra.windows import Past


class RWKV6(Recurrence):
    """o_t = (S_{t-1} + v_t (u * k_t)^T) r_t,  S_t = S_{t-1} diag(w_t) + v_t k_t^T
    y_t = silu(g_t) * layernorm(o_t),  w_t = exp(-exp(w_0 + A_w tanh(B_w x^w_t))).

    Lane: a head, S: [K, K] with K = D/heads, 64 by default, all else [K]. Each of r, w, k, v, g reads its own mix of
    this time step and the one before, x^r = x_t + (x_{t-1} - x_t) (mu_r + A_r tanh(B_r z_t)) and alike, with
    z = x_t + (x_{t-1} - x_t) mu: [D]; A_r: [D, `mix_rank`]. r = W_r x^r, k, v and g alike. The layer norm has its own
    weight and bias in each head. The result is W_o y.
    Initialisation: as PyTorch's linear maps, mu = 0, and w_0 and u as the authors' code sets them in the first block:
    w_0 = -6 + 5 (i / (D - 1))^0.7, u = 1 - i / (D - 1) + 0.1 ((i + 1) mod 3 - 1) for channel i.

    Source: Eagle and Finch: RWKV with Matrix-Valued States and Dynamic Recurrence, Peng, Goldstein, Anthony, Albalak,
    Alcaide, Biderman, Cheah, Ferdinan et al., 2024, arXiv:2404.05892. Departures: all layers start like the first.
    """

    lane = Lane.HEAD
    paper = Paper(
        "Eagle and Finch: RWKV with Matrix-Valued States and Dynamic Recurrence", "Peng et al.", 2024, "2404.05892"
    )

    def __init__(self, width: int, heads: int | None = None, mix_rank: int = 32, decay_rank: int = 64):
        super().__init__(width)
        heads = self.heads = head_count(heads, width, 64)
        self.size = width // heads
        self.windows = {"shift": (width, 1)}
        self.mix = nn.Parameter(torch.zeros(6, width))  # rows: of z, then r, w, k, v, g
        self.to_mix = Linear(width, 5 * options.count("mix_rank", mix_rank), bias=False)
        self.from_mix = nn.Parameter(torch.zeros(5, mix_rank, width).uniform_(-0.01, 0.01))
        self.to_r, self.to_k, self.to_v, self.to_g = (Linear(width, width, bias=False) for _ in range(4))
        decay = Linear(options.count("decay_rank", decay_rank), width)
        self.to_w = nn.Sequential(Linear(width, decay_rank, bias=False), nn.Tanh(), decay)
        channel = torch.arange(width) / max(width - 1, 1)
        zigzag = 0.1 * ((torch.arange(width) + 1) % 3 - 1)
        self.bonus = nn.Parameter((1 - channel + zigzag).view(heads, self.size))
        self.norm_weight = nn.Parameter(torch.ones(heads, self.size))
        self.norm_bias = nn.Parameter(torch.zeros(heads, self.size))
        self.to_output = Linear(width, width, bias=False)
        with torch.no_grad():
            decay.bias.copy_(-6 + 5 * channel**0.7)

    def start(self) -> dict[str, Tensor]:
        return {"S": torch.zeros(self.heads, self.size, self.size)}

    def inputs(self, x: Tensor, past: Past) -> dict[str, Tensor | StepInput]:
        now, before = past.lags("shift", x)
        change, (mu, *shares) = before - now, self.mix.to(x.dtype).unbind(0)
        low = torch.tanh(self.to_mix(now + change * mu)).unflatten(-1, (5, -1)).unbind(2)
        mixes = [
            now + change * (share + a @ b) for share, a, b in zip(shares, low, self.from_mix.to(x.dtype), strict=True)
        ]
        maps = {"r": self.to_r, "w": self.to_w, "k": self.to_k, "v": self.to_v, "g": self.to_g}
        heads = {n: to(mix).unflatten(-1, (self.heads, -1)) for (n, to), mix in zip(maps.items(), mixes, strict=True)}
        always = {"u": self.bonus, "weight": self.norm_weight, "bias": self.norm_bias}
        return heads | {name: constant(value) for name, value in always.items()}

    def step(
        self, S: Tensor, r: Tensor, w: Tensor, k: Tensor, v: Tensor, g: Tensor, u: Tensor, weight: Tensor, bias: Tensor
    ) -> tuple[Tensor, Tensor]:
        y = self._read(S @ r, r, k, v, g, u, weight, bias)
        return S * torch.exp(-torch.exp(w)) + torch.outer(v, k), y

    def _read(
        self, o: Tensor, r: Tensor, k: Tensor, v: Tensor, g: Tensor, u: Tensor, weight: Tensor, bias: Tensor
    ) -> Tensor:
        """y of what is read of the memory, of any number of time steps."""
        o = o + (r * u * k).sum(-1, keepdim=True) * v
        centred = o - o.mean(-1, keepdim=True)
        # 64e-5 is the authors' eps: 1e-5 times the square of a head size divisor of 8.
        normed = centred * torch.rsqrt(centred.square().mean(-1, keepdim=True) + 64e-5) * weight + bias
        return nn.functional.silu(g) * normed

    def as_delta_rule(
        self, S: Tensor, r: Tensor, w: Tensor, k: Tensor, v: Tensor, g: Tensor, u: Tensor, weight: Tensor, bias: Tensor
    ) -> DeltaRule:
        read = lambda o, S: (S, self._read(o, r, k, v, g, u, weight, bias))  # noqa: E731
        return DeltaRule(r, k, v, S, log_decay=-torch.exp(w), before=True, result=read)

    def outputs(self, y: Tensor, x: Tensor) -> Tensor:  # noqa: ARG002
        return self.to_output(y.flatten(2))
