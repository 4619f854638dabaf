"""Based: linear attention whose features are the Taylor expansion of the exponential."""

import math

import torch
from torch import Tensor

from recurra import options
from recurra.nn.linear import Linear
from recurra.problem import Lane
from recurra.recurrence import Paper, Recurrence


class Based(Recurrence):
    """S_t = S_{t-1} + phi(k_t) v_t^T,  z_t = z_{t-1} + phi(k_t),  y_t = S_t^T phi(q_t) / (z_t . phi(q_t))
    phi(u) = [1, u / K^(1/4), (u u^T) / sqrt(2 K)], so that phi(q) . phi(k) = 1 + s + s^2 / 2 with s = q . k / sqrt(K).

    Lane: a head with S: [1 + K + K^2, V], z: [1 + K + K^2], q, k: [K] and v: [V], linear in x; K = `features`,
    V = D / heads. The result is W_o y.

    Source: Simple linear attention language models balance the recall-throughput tradeoff, Arora, Eyuboglu, Zhang,
    Timalsina, Alberti, Zinsley, Zou, Rudra, Re, 2024, arXiv:2402.18668. The published code adds 1e-12 to the
    denominator, which is at least 1/2 anyway. Models alternate this layer with sliding windows of attention and short
    convolutions, which are layers of their own. The published V is 64.
    """

    lane = Lane.HEAD
    paper = Paper(
        "Simple linear attention language models balance the recall-throughput tradeoff",
        "Arora et al.",
        2024,
        "2402.18668",
    )

    def __init__(self, width: int, heads: int = 4, features: int = 16):
        super().__init__(width)
        self.heads = options.divisor("heads", heads, width, "width")
        self.features = options.count("features", features)
        self.to_query = Linear(width, heads * features, bias=False)
        self.to_key = Linear(width, heads * features, bias=False)
        self.to_value = Linear(width, width, bias=False)
        self.to_output = Linear(width, width, bias=False)

    def start(self) -> dict[str, Tensor]:
        size = 1 + self.features + self.features**2
        return {"S": torch.zeros(self.heads, size, self.width // self.heads), "z": torch.zeros(self.heads, size)}

    def inputs(self, x: Tensor) -> dict[str, Tensor]:
        vectors = {"q": self.to_query, "k": self.to_key, "v": self.to_value}
        return {name: project(x).unflatten(-1, (self.heads, -1)) for name, project in vectors.items()}

    def step(self, S: Tensor, z: Tensor, q: Tensor, k: Tensor, v: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
        q, k = _taylor(q), _taylor(k)
        S = S + torch.outer(k, v)
        z = z + k
        return (S, z), S.T @ q / (z * q).sum()

    def outputs(self, y: Tensor, x: Tensor) -> Tensor:  # noqa: ARG002
        return self.to_output(y.flatten(2))


def _taylor(u: Tensor) -> Tensor:
    """[K] to [1 + K + K^2]."""
    u = u / u.shape[0] ** 0.25
    return torch.cat([u.new_ones(1), u, torch.outer(u, u).flatten() / math.sqrt(2)])
