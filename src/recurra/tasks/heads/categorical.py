"""One of several classes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from recurra import options
from recurra.errors import InputError
from recurra.tasks.heads.head import NOTHING, Around, Head, one_hot


class Categorical(Head):
    """p(k) = softmax(raw)_k. Targets are int64, 0 to classes - 1; any other is missing.

    Args:
        classes: how many there are.
        smoothing: this share of each target is dealt to all classes alike in the loss.
        weights: how often the target of each class counts in the loss.
    """

    kind = "category"

    def __init__(self, classes: int, smoothing: float = 0.0, weights: Sequence[float] | None = None):
        super().__init__()
        self.size = options.count("classes", classes)
        self.smoothing = options.number("smoothing", smoothing, 0, 1)
        self.weights: Tensor | None
        if weights is not None and len(weights) != classes:
            raise InputError(f"weights has {len(weights)} numbers; expected one for each of {classes} classes")
        self.register_buffer("weights", None if weights is None else torch.tensor([float(w) for w in weights]))

    def there(self, target: Tensor) -> Tensor:
        return (target >= 0) & (target < self.size)

    @property
    def embedded(self) -> int:
        return self.size

    def embed(self, value: Tensor, around: Around = NOTHING) -> Tensor:  # noqa: ARG002
        return one_hot(value, self.size)

    def _surprise(self, raw: Tensor, target: Tensor, around: Around) -> Tensor:  # noqa: ARG002
        return -raw.log_softmax(-1).gather(-1, target[..., None])[..., 0]

    def loss(self, raw: Tensor, target: Tensor, weight: Tensor | None = None, around: Around = NOTHING) -> Tensor:
        each = self.surprise(raw, target, around)
        if self.smoothing:
            each = (1 - self.smoothing) * each - self.smoothing * raw.log_softmax(-1).mean(-1)
        return self._mean(each, target, self._counted(target, weight))

    def _counted(self, target: Tensor, weight: Tensor | None) -> Tensor | None:
        """How often each target counts."""
        if self.weights is None:
            return weight
        own = self.weights[target.clamp(0, self.size - 1)]
        return own if weight is None else weight * own

    def probabilities(self, raw: Tensor) -> Tensor:
        """[..., classes]."""
        return raw.softmax(-1)

    def predict(self, raw: Tensor, around: Around = NOTHING) -> Tensor:  # noqa: ARG002
        """[...] int64: the likeliest class."""
        return raw.argmax(-1)

    def sample(
        self,
        raw: Tensor,
        count: int = 1,
        around: Around = NOTHING,  # noqa: ARG002
        generator: torch.Generator | None = None,
    ) -> Tensor:
        chances = raw.softmax(-1).reshape(-1, self.size)
        drawn = torch.multinomial(chances, count, replacement=True, generator=generator)
        return drawn.T.reshape(count, *raw.shape[:-1])
