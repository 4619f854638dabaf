"""What every head is: numbers of a model to a distribution, its loss, and what is read off it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from recurra import options
from recurra.errors import InputError


@dataclass(frozen=True)
class Around:
    """What goes along with the raw numbers of a head."""

    mean: Tensor | None = None
    """Where numbers lay when the prediction was made, of the shape of the targets or broadcast to it; None is 0."""
    deviation: Tensor | None = None
    """How far they spread; None is 1."""
    resets: Tensor | None = None
    """[B, T] bool, for heads that look at whole sequences: where one begins."""
    lengths: Tensor | None = None
    """[B] int64, for the same: time steps before the padding."""

    def apart(self, value: Tensor) -> Tensor:
        """A number in units of the deviation, from the mean."""
        value = value if self.mean is None else value - self.mean
        return value if self.deviation is None else value / self.deviation

    def back(self, value: Tensor) -> Tensor:
        """The inverse of `apart`."""
        value = value if self.deviation is None else value * self.deviation
        return value if self.mean is None else value + self.mean

    def over(self, axes: int) -> Around:
        """For values with so many axes more behind those of the targets."""
        more = (..., *[None] * axes)
        mean = None if self.mean is None else self.mean[more]
        return Around(mean, None if self.deviation is None else self.deviation[more], self.resets, self.lengths)

    @property
    def log_deviation(self) -> Tensor | float:
        """What a density in units of the deviation loses to one in those of the numbers themselves."""
        return 0.0 if self.deviation is None else self.deviation.log()


NOTHING = Around()
"""Numbers are as they are, and each row is one sequence."""


class Head(nn.Module):
    """A distribution of a target, from `size` raw numbers: raw [..., size], target [...]."""

    kind: ClassVar[str] = "number"
    """Of the target: number or category."""
    size: int

    def there(self, target: Tensor) -> Tensor:
        """[...] bool: which targets are not missing."""
        return ~target.isnan()

    def surprise(self, raw: Tensor, target: Tensor, around: Around = NOTHING) -> Tensor:
        """[...]: minus the logarithm of the density, or the probability, of each target; 0 where it is missing."""
        there = self.there(target)
        found = self._surprise(raw, torch.where(there, target, 0), around)
        return torch.where(there, found, 0)

    def _surprise(self, raw: Tensor, target: Tensor, around: Around) -> Tensor:
        """`surprise` of targets that are all there."""
        raise NotImplementedError

    def loss(self, raw: Tensor, target: Tensor, weight: Tensor | None = None, around: Around = NOTHING) -> Tensor:
        """The mean surprise of targets that are there, [], each counted `weight` [...] times; 0 if there is none."""
        return self._mean(self.surprise(raw, target, around), target, weight)

    def _mean(self, each: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
        counted = self.there(target).to(each.dtype)
        if weight is not None:
            counted = counted * weight
        total = counted.sum()
        return (each * counted).sum() / torch.where(total == 0, 1.0, total)

    def predict(self, raw: Tensor, around: Around = NOTHING) -> Tensor:
        """[...]: the one value to name."""
        raise NotImplementedError

    def sample(
        self, raw: Tensor, count: int = 1, around: Around = NOTHING, generator: torch.Generator | None = None
    ) -> Tensor:
        """[count, ...]: draws."""
        raise NotImplementedError

    def quantile(self, raw: Tensor, levels: Sequence[float], around: Around = NOTHING) -> Tensor:  # noqa: ARG002
        """[..., levels]: the values below which the target falls with these probabilities.

        Raises InputError if a level is not between 0 and 1, or if the target has no order.
        """
        raise InputError(f"{type(self).__name__} has no quantiles: its target has no order; use predict or sample")

    @property
    def embedded(self) -> int:
        """How many numbers `embed` makes of a value."""
        return 2

    def embed(self, value: Tensor, around: Around = NOTHING) -> Tensor:
        """[..., embedded]: what a model reads of a value [...] that was drawn, or came: in units of the deviation, 0
        beside a flag where it is missing; of a category zeros, and a 1 at its place."""
        there = self.there(value)
        told = torch.where(there, around.apart(torch.where(there, value, 0)), 0)
        return torch.stack([told, (~there).to(told.dtype)], -1)

    def forward(self, raw: Tensor, target: Tensor, weight: Tensor | None = None, around: Around = NOTHING) -> Tensor:
        """As `loss`."""
        return self.loss(raw, target, weight, around)


def one_hot(value: Tensor, classes: int) -> Tensor:
    """[..., classes]: zeros, and a 1 at the place of each value [...] that is a class."""
    return (value[..., None] == torch.arange(classes, device=value.device)).to(torch.get_default_dtype())


def checked(levels: Sequence[float], like: Tensor) -> Tensor:
    """Probabilities as a tensor [levels]. Raises InputError if one is not between 0 and 1."""
    for level in levels:
        if options.number("levels", level, 0, 1) == 0:
            raise InputError(f"levels holds {level!r}; expected probabilities between 0 and 1, both left out")
    return torch.tensor(list(levels), dtype=like.dtype, device=like.device)
