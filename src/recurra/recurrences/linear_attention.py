"""Linear attention: causal attention whose weights are products of positive features."""

import torch
from torch import Tensor, nn

from recurra import options
from recurra.nn.linear import Linear
from recurra.problem import DeltaRule, Lane
from recurra.recurrence import Paper, Recurrence
from recurra.recurrences.feature_maps import FEATURE_MAPS


class LinearAttention(Recurrence):
    """S_t = S_{t-1} + phi(k_t) v_t^T,  z_t = z_{t-1} + phi(k_t),  y_t = S_t^T phi(q_t) / (z_t . phi(q_t) + 1e-6).

    Lane: a head with S: [F, K], z: [F] and q, k, v: [K], affine in x; K = D / heads. The result is W_o y + b_o.
    phi: [K] to [F] is, by `feature_map`,

        elu       elu(u) + 1                            F = K
        relu      relu(u)                               F = K
        t2r       relu(W u + b)                         F = K
        hedgehog  softmax(2 [W u + b, -W u - b])        F = 2 K; W = I, b = 0 at first
        dpfp      r_i r_(i-1) of r = relu([u, -u])      F = 2 K, in a ring

    where W and b are the same for all heads, those of queries apart from those of keys.

    Source: Transformers are RNNs: Fast Autoregressive Transformers with Linear Attention, Katharopoulos, Vyas, Pappas,
    Fleuret, 2020, arXiv:2006.16236; 1e-6 is from its published code. The paper uses 8 heads of 32 channels.
    Other maps: Finetuning Pretrained Transformers into RNNs, Kasai et al., 2021, arXiv:2103.13076 (t2r); The Hedgehog &
    the Porcupine, Zhang et al., 2024, arXiv:2402.04347, as in flash-linear-attention; Linear Transformers Are Secretly
    Fast Weight Programmers, Schlag, Irie, Schmidhuber, 2021, arXiv:2102.11174 (dpfp, nu = 1).
    """

    lane = Lane.HEAD
    paper = Paper("Transformers are RNNs", "Katharopoulos, Vyas, Pappas, Fleuret", 2020, "2006.16236")

    def __init__(self, width: int, heads: int = 4, feature_map: str = "elu"):
        super().__init__(width)
        self.heads = options.divisor("heads", heads, width, "width")
        self.phi = FEATURE_MAPS[options.choice("feature_map", feature_map, tuple(FEATURE_MAPS))]
        self.to_query = Linear(width, width)
        self.to_key = Linear(width, width)
        self.to_value = Linear(width, width)
        self.to_output = Linear(width, width)
        self.map_query, self.map_key = (self.phi.linear(width // heads) for _ in range(2))

    def start(self) -> dict[str, Tensor]:
        size = self.width // self.heads
        features = self.phi.widening * size
        return {"S": torch.zeros(self.heads, features, size), "z": torch.zeros(self.heads, features)}

    def inputs(self, x: Tensor) -> dict[str, Tensor]:
        q, k, v = (to(x).unflatten(-1, (self.heads, -1)) for to in (self.to_query, self.to_key, self.to_value))
        return {"q": self.map_query(q), "k": self.map_key(k), "v": v}

    def step(self, S: Tensor, z: Tensor, q: Tensor, k: Tensor, v: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
        q, k = self.phi.features(q), self.phi.features(k)
        S = S + torch.outer(k, v)
        z = z + k
        return (S, z), S.T @ q / ((z * q).sum() + 1e-6)

    def as_delta_rule(self, S: Tensor, z: Tensor, q: Tensor, k: Tensor, v: Tensor) -> DeltaRule:
        # z is one more column of S, for a value that is always 1.
        S, v = torch.cat([S, z[..., None]], -1).mT, nn.functional.pad(v, (0, 1), value=1.0)
        return DeltaRule(self.phi.features(q), self.phi.features(k), v, S, result=_normalised)

    def outputs(self, y: Tensor, x: Tensor) -> Tensor:  # noqa: ARG002
        return self.to_output(y.flatten(2))


def _normalised(o: Tensor, S: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """States and outputs, given those with z as the last row of S."""
    return (S[..., :-1, :].mT, S[..., -1, :]), o[..., :-1] / (o[..., -1:] + 1e-6)
