"""Feature maps of linear attention: vectors [..., K] to features [..., F], none of them negative.

So the sum that attention divides by is one of numbers of one sign: however small it is, no digits cancel in it.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from recurra.nn.linear import Linear


class FeatureMap(NamedTuple):
    """What is taken of u, which is W u + b of a query or key where the map is `learned`."""

    features: Callable[[Tensor], Tensor]
    widening: int = 1
    """F / K."""
    learned: bool = False
    from_identity: bool = False
    """Whether W starts as the identity and b as 0, not as PyTorch's linear maps."""

    def linear(self, size: int) -> nn.Module:
        """u of queries or keys of K = `size` channels."""
        if not self.learned:
            return nn.Identity()
        linear = Linear(size, size)
        if self.from_identity:
            nn.init.eye_(linear.weight)
            nn.init.zeros_(linear.bias)
        return linear


def _elu(u: Tensor) -> Tensor:
    """elu(u) + 1, which is exp(u) below 0 and u + 1 above, without the subtraction that costs small values digits."""
    return torch.exp(torch.clamp(u, max=0)) + torch.relu(u)


def _softmax(u: Tensor) -> Tensor:
    return torch.softmax(torch.cat([2 * u, -2 * u], -1), -1)


def _products(u: Tensor) -> Tensor:
    """Products of neighbours in a ring of all positive and all negative parts."""
    parts = torch.relu(torch.cat([u, -u], -1))
    return parts * torch.roll(parts, 1, -1)


FEATURE_MAPS: Mapping[str, FeatureMap] = {
    "elu": FeatureMap(_elu),
    "relu": FeatureMap(torch.relu),
    "t2r": FeatureMap(torch.relu, learned=True),
    "hedgehog": FeatureMap(_softmax, widening=2, learned=True, from_identity=True),
    "dpfp": FeatureMap(_products, widening=2),
}
