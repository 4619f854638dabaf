"""RWKV-5's time mixing: a matrix memory with fixed decays, read with a bonus before it is written."""

import torch
from torch import Tensor, nn

from recurra.nn.linear import Linear
from recurra.problem import DeltaRule, Lane, StepInput, constant
from recurra.recurrence import Paper, Recurrence
from recurra.recurrences.delta_net import head_count
from recurra.windows import Past


class Eagle(Recurrence):
    """What RWKV-5 and RWKV-6 share: the memory of r, w, k, v and g: [K] in each head, their linear maps, the output."""

    def __init__(self, width: int, heads: int | None):
        super().__init__(width)
        heads = self.heads = head_count(heads, width, 64)
        self.size = width // heads
        self.windows = {"shift": (width, 1)}
        self.to_r, self.to_k, self.to_v, self.to_g = (Linear(width, width, bias=False) for _ in range(4))
        zigzag = 0.1 * ((torch.arange(width) + 1) % 3 - 1)
        self.bonus = nn.Parameter((1 - ramp(width) + zigzag).view(heads, self.size))
        self.norm_weight = nn.Parameter(torch.ones(heads, self.size))
        self.norm_bias = nn.Parameter(torch.zeros(heads, self.size))
        self.to_output = Linear(width, width, bias=False)

    def start(self) -> dict[str, Tensor]:
        return {"S": torch.zeros(self.heads, self.size, self.size)}

    def always(self) -> dict[str, StepInput]:
        """What is the same at all time steps."""
        always = {"u": self.bonus, "weight": self.norm_weight, "bias": self.norm_bias}
        return {name: constant(value) for name, value in always.items()}

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


def ramp(width: int) -> Tensor:
    """From 0 in the first channel to 1 in the last, [width]."""
    return torch.arange(width) / max(width - 1, 1)


class RWKV5(Eagle):
    """o_t = (S_{t-1} + v_t (u * k_t)^T) r_t,  S_t = S_{t-1} diag(w) + v_t k_t^T
    y_t = silu(g_t) * layernorm(o_t),  w = exp(-exp(w_0)).

    Lane: a head, S: [K, K] with K = D/heads, 64 by default, all else [K]. Each of r, k, v, g is a linear map of its own
    mix of this time step and the one before, (1 - mu_r) x_t + mu_r x_{t-1} and alike, mu: [D]. The layer norm has its
    own weight and bias in each head. The result is W_o y.
    Initialisation: as PyTorch's linear maps, mu = 1/2, w_0 and u as in RWKV-6.

    Source: Eagle and Finch: RWKV with Matrix-Valued States and Dynamic Recurrence, Peng, Goldstein, Anthony, Albalak,
    Alcaide, Biderman, Cheah, Ferdinan et al., 2024, arXiv:2404.05892, where it is Eagle.
    """

    lane = Lane.HEAD
    paper = Paper(
        "Eagle and Finch: RWKV with Matrix-Valued States and Dynamic Recurrence", "Peng et al.", 2024, "2404.05892"
    )

    def __init__(self, width: int, heads: int | None = None):
        super().__init__(width, heads)
        self.mix = nn.Parameter(torch.full((4, width), 0.5))  # rows: of r, k, v, g
        self.decay = nn.Parameter((-6 + 5 * ramp(width) ** 0.7).view(self.heads, self.size))

    def inputs(self, x: Tensor, past: Past) -> dict[str, Tensor | StepInput]:
        mixes = past.mix("shift", x, self.mix)
        maps = {"r": self.to_r, "k": self.to_k, "v": self.to_v, "g": self.to_g}
        heads = {n: to(mix).unflatten(-1, (self.heads, -1)) for (n, to), mix in zip(maps.items(), mixes, strict=True)}
        return heads | self.always() | {"w": constant(self.decay)}
