"""RWKV-6's time mixing: a matrix memory with data-dependent decays, read with a bonus before it is written."""

import torch
from torch import Tensor, nn

from recurra import options
from recurra.nn.linear import Linear
from recurra.problem import Lane, StepInput
from recurra.recurrence import Paper
from recurra.recurrences.rwkv5 import Eagle, ramp
from recurra.windows import Past


class RWKV6(Eagle):
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
        super().__init__(width, heads)
        self.mix = nn.Parameter(torch.zeros(6, width))  # rows: of z, then r, w, k, v, g
        self.to_mix = Linear(width, 5 * options.count("mix_rank", mix_rank), bias=False)
        self.from_mix = nn.Parameter(torch.zeros(5, mix_rank, width).uniform_(-0.01, 0.01))
        decay = Linear(options.count("decay_rank", decay_rank), width)
        self.to_w = nn.Sequential(Linear(width, decay_rank, bias=False), nn.Tanh(), decay)
        with torch.no_grad():
            decay.bias.copy_(-6 + 5 * ramp(width) ** 0.7)

    def inputs(self, x: Tensor, past: Past) -> dict[str, Tensor | StepInput]:
        now, before = past.lags("shift", x)
        change, (mu, *shares) = before - now, self.mix.to(x.dtype).unbind(0)
        low = torch.tanh(self.to_mix(now + change * mu)).unflatten(-1, (5, -1)).unbind(2)
        mixes = [
            now + change * (share + a @ b) for share, a, b in zip(shares, low, self.from_mix.to(x.dtype), strict=True)
        ]
        maps = {"r": self.to_r, "w": self.to_w, "k": self.to_k, "v": self.to_v, "g": self.to_g}
        heads = {n: to(mix).unflatten(-1, (self.heads, -1)) for (n, to), mix in zip(maps.items(), mixes, strict=True)}
        return heads | self.always()
