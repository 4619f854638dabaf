"""Yes or no, of the one of many things that is asked."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recurra import options
from recurra.tasks.heads.head import NOTHING, Around, Head, one_hot


class Queried(Head):
    """p(yes | item k) = sigmoid(raw_k): whether the item that is asked next is answered rightly. Targets are int64:
    2 k for a wrong answer to item k, 2 k + 1 for a right one, as inputs are; any other is missing.

    Source: Deep Knowledge Tracing, Piech et al., 2015, arXiv:1506.05908.

    Args:
        items: how many there are.
    """

    kind = "category"

    def __init__(self, items: int):
        super().__init__()
        self.size = options.count("items", items)

    def there(self, target: Tensor) -> Tensor:
        return (target >= 0) & (target < 2 * self.size)

    @property
    def embedded(self) -> int:
        return 2 * self.size

    def embed(self, value: Tensor, around: Around = NOTHING) -> Tensor:  # noqa: ARG002
        return one_hot(value, self.embedded)

    def _surprise(self, raw: Tensor, target: Tensor, around: Around) -> Tensor:  # noqa: ARG002
        asked = raw.gather(-1, target[..., None] // 2)[..., 0]
        return nn.functional.softplus(asked) - (target % 2) * asked

    def probabilities(self, raw: Tensor) -> Tensor:
        """[..., items]: of a right answer to each."""
        return raw.sigmoid()

    def predict(self, raw: Tensor, around: Around = NOTHING) -> Tensor:  # noqa: ARG002
        """[...] int64: the item whose answer is least certain, and the likelier answer to it, as targets are."""
        item = raw.abs().argmin(-1)
        return 2 * item + (raw.gather(-1, item[..., None])[..., 0] > 0)

    def sample(
        self,
        raw: Tensor,
        count: int = 1,
        around: Around = NOTHING,  # noqa: ARG002
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """[count, ...]: of any item, all alike, an answer by its chance, as targets are."""
        item = torch.randint(self.size, (count, *raw.shape[:-1]), generator=generator)
        chances = raw.sigmoid().expand(count, *raw.shape).gather(-1, item[..., None])[..., 0]
        return 2 * item + torch.bernoulli(chances, generator=generator).long()
