"""Yes or no, of one thing or of several at once."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recurra.tasks.heads.head import NOTHING, Around, Head


class Binary(Head):
    """p(yes) = sigmoid(raw), raw [..., 1]; several labels are an axis more of both. Targets are 0 or 1, NaN missing."""

    size = 1

    def _surprise(self, raw: Tensor, target: Tensor, around: Around) -> Tensor:  # noqa: ARG002
        return nn.functional.softplus(raw[..., 0]) - target * raw[..., 0]

    def probabilities(self, raw: Tensor) -> Tensor:
        """[...]: of yes."""
        return raw[..., 0].sigmoid()

    def predict(self, raw: Tensor, around: Around = NOTHING) -> Tensor:  # noqa: ARG002
        """[...]: 1 where yes is likelier, else 0."""
        return (raw[..., 0] > 0).to(raw.dtype)

    def sample(
        self,
        raw: Tensor,
        count: int = 1,
        around: Around = NOTHING,  # noqa: ARG002
        generator: torch.Generator | None = None,
    ) -> Tensor:
        chances = self.probabilities(raw).expand(count, *raw.shape[:-1])
        return torch.bernoulli(chances, generator=generator)
