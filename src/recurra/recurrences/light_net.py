"""LightNet: linear attention whose decay is what the keys themselves leave to each other, a softmax over time."""

import torch
from torch import Tensor, nn

from recurra import options
from recurra.nn.linear import Linear
from recurra.pointwise import rms_norm
from recurra.problem import Lane
from recurra.recurrence import Paper, Recurrence
from recurra.recurrences.delta_net import head_count


class LightNet(Recurrence):
    """z_t = log(exp(z_{t-1}) + exp(k_t)),  S_t = diag(exp(z_{t-1} - z_t)) S_{t-1} + exp(k_t - z_t) v_t^T
    o_t = S_t^T q_t / sqrt(K).

    Lane: a head, z: [K], S: [K, V], K = V = D / heads, 128 at most by default; k and v linear in x, q = silu(W_q x). So
    each key channel is a softmax over all time steps so far. The result is W_o (rmsnorm(o) * silu(W_2 W_1 x)), the norm
    over all heads, W_1: [rank, D]. While nothing has been seen (seen = 0, from then on 1) z stands for -infinity.
    Initialisation: as PyTorch's linear maps.

    Source: You Only Scan Once: Efficient Multi-dimension Sequential Modeling with LightNet, Qin, Mao, Shen, Li, Zhang,
    Dai, Zhong, 2024, arXiv:2405.21022; 1 / sqrt(K) and the gate of low rank as in flash-linear-attention.
    """

    lane = Lane.HEAD
    paper = Paper(
        "You Only Scan Once: Efficient Multi-dimension Sequential Modeling with LightNet",
        "Qin et al.",
        2024,
        "2405.21022",
    )

    def __init__(self, width: int, heads: int | None = None, rank: int = 128):
        super().__init__(width)
        heads = self.heads = head_count(heads, width, 128)
        self.size = width // heads
        self.to_query = Linear(width, width, bias=False)
        self.to_key = Linear(width, width, bias=False)
        self.to_value = Linear(width, width, bias=False)
        self.to_gate = nn.Sequential(
            Linear(width, options.count("rank", rank), bias=False), Linear(rank, width, bias=False)
        )
        self.norm_weight = nn.Parameter(torch.ones(width))
        self.to_output = Linear(width, width, bias=False)

    def start(self) -> dict[str, Tensor]:
        return {
            "z": torch.zeros(self.heads, self.size),
            "S": torch.zeros(self.heads, self.size, self.size),
            "seen": torch.zeros(self.heads),
        }

    def inputs(self, x: Tensor) -> dict[str, Tensor]:
        vectors = {"q": nn.functional.silu(self.to_query(x)), "k": self.to_key(x), "v": self.to_value(x)}
        return {name: t.unflatten(-1, (self.heads, -1)) for name, t in vectors.items()}

    def step(
        self, z: Tensor, S: Tensor, seen: Tensor, q: Tensor, k: Tensor, v: Tensor
    ) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
        z, S, seen = taken_up((z, S, seen), k, v)
        return (z, S, seen), S.T @ q * self.size**-0.5

    def combine(self, earlier: tuple[Tensor, ...], later: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return joined(earlier, later)

    def outputs(self, y: Tensor, x: Tensor) -> Tensor:
        return self.to_output(rms_norm(y.flatten(2), self.norm_weight, 1e-5) * nn.functional.silu(self.to_gate(x)))


def taken_up(state: tuple[Tensor, Tensor, Tensor], k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """z [K], S [K, V] and seen after a time step with k [K] and v [V]."""
    z, S, seen = state
    # Nothing has been seen: k, which z is then, in place of an infinity that no arithmetic is to meet.
    before = torch.where(seen == 0, k, z)
    new = torch.where(seen == 0, k, torch.logaddexp(before, k))
    S = torch.exp(before - new)[:, None] * S + torch.outer(torch.exp(k - new), v)
    return new, S, torch.ones_like(seen)


def joined(earlier: tuple[Tensor, ...], later: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The softmax sums z, S, seen of two neighbouring stretches of time, brought to one denominator."""
    (z0, S0, seen0), (z1, S1, seen1) = earlier, later
    z0, z1 = torch.where(seen0 == 0, z1, z0), torch.where(seen1 == 0, z0, z1)
    both = seen0 * seen1 != 0
    z = torch.where(both, torch.logaddexp(z0, z1), z0)
    S = torch.exp(z0 - z)[:, None] * S0 + torch.exp(z1 - z)[:, None] * S1
    return z, S, torch.where((seen0 != 0) | (seen1 != 0), 1.0, 0.0).to(z.dtype)
