"""Linear attention: causal attention whose weights are products of positive features."""

import torch
from torch import Tensor, nn

from recurra import options
from recurra.nn.linear import Linear
from recurra.problem import DeltaRule, Lane
from recurra.recurrence import Paper, Recurrence


class LinearAttention(Recurrence):
    """S_t = S_{t-1} + phi(k_t) v_t^T,  z_t = z_{t-1} + phi(k_t),  y_t = S_t^T phi(q_t) / (z_t . phi(q_t) + 1e-6).

    Lane: a head with S: [K, K] and z, q, k, v: [K], affine in x; K = D / heads; phi(u) = elu(u) + 1. The result is
    W_o y + b_o.

    Source: Transformers are RNNs: Fast Autoregressive Transformers with Linear Attention, Katharopoulos, Vyas, Pappas,
    Fleuret, 2020, arXiv:2006.16236; 1e-6 is from its published code. The paper uses 8 heads of 32 channels.
    """

    lane = Lane.HEAD
    paper = Paper("Transformers are RNNs", "Katharopoulos, Vyas, Pappas, Fleuret", 2020, "2006.16236")

    def __init__(self, width: int, heads: int = 4):
        super().__init__(width)
        self.heads = options.divisor("heads", heads, width, "width")
        self.to_query = Linear(width, width)
        self.to_key = Linear(width, width)
        self.to_value = Linear(width, width)
        self.to_output = Linear(width, width)

    def start(self) -> dict[str, Tensor]:
        size = self.width // self.heads
        return {"S": torch.zeros(self.heads, size, size), "z": torch.zeros(self.heads, size)}

    def inputs(self, x: Tensor) -> dict[str, Tensor]:
        vectors = {"q": self.to_query, "k": self.to_key, "v": self.to_value}
        return {name: project(x).unflatten(-1, (self.heads, -1)) for name, project in vectors.items()}

    def step(self, S: Tensor, z: Tensor, q: Tensor, k: Tensor, v: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
        q, k = _positive(q), _positive(k)
        S = S + torch.outer(k, v)
        z = z + k
        return (S, z), S.T @ q / ((z * q).sum() + 1e-6)

    def as_delta_rule(self, S: Tensor, z: Tensor, q: Tensor, k: Tensor, v: Tensor) -> DeltaRule:
        # z is one more column of S, for a value that is always 1.
        S, v = torch.cat([S, z[..., None]], -1).mT, nn.functional.pad(v, (0, 1), value=1.0)
        return DeltaRule(_positive(q), _positive(k), v, S, result=_normalised)

    def outputs(self, y: Tensor, x: Tensor) -> Tensor:  # noqa: ARG002
        return self.to_output(y.flatten(2))


def _normalised(o: Tensor, S: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """States and outputs, given those with z as the last row of S."""
    return (S[..., :-1, :].mT, S[..., -1, :]), o[..., :-1] / (o[..., -1:] + 1e-6)


def _positive(u: Tensor) -> Tensor:
    """elu(u) + 1, which is exp(u) below 0 and u + 1 above, without the subtraction that costs small values digits."""
    return torch.exp(torch.clamp(u, max=0)) + torch.relu(u)
