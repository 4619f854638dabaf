"""The scores of a large vocabulary, of which training looks at a few."""

from __future__ import annotations

import torch
from torch import Tensor

from recurra import check, options
from recurra.errors import InputError
from recurra.nn.linear import Linear


class SampledSoftmax(Linear):
    """A linear map to the scores of all classes, with a `loss` that takes the target's and those of `samples` others.

    The others are drawn with replacement, each class k by its chance q_k; scores s_k of these lose log(samples q_k), of
    which the sum over the draws then estimates that over all classes. A draw that is the target is left out, and the
    target counts as it is.

    Source: On Using Very Large Target Vocabulary for Neural Machine Translation, Jean, Cho, Memisevic, Bengio, 2015,
    arXiv:1412.2007; importance sampling in Exploring the Limits of Language Modeling, Jozefowicz et al., 2016,
    arXiv:1602.02410.

    Args:
        width, classes: of what it reads, and how many there are.
        samples: drawn at each call of the loss, the same for all positions.
        counts: [classes], how often each comes: its chance to be drawn follows; by default all alike.
    """

    chances: Tensor

    def __init__(self, width: int, classes: int, samples: int, counts: Tensor | None = None):
        super().__init__(width, classes)
        self.samples = options.count("samples", samples)
        counts = torch.ones(classes) if counts is None else counts
        if counts.shape != (classes,) or (counts < 0).any() or not counts.sum() > 0:
            raise InputError(f"counts is {check.describe(counts)}; expected [{classes}] numbers, none negative")
        chances = counts.double() + 1e-3 * counts.double().mean()  # what was never seen may be drawn as well
        self.register_buffer("chances", (chances / chances.sum()).to(self.weight.dtype))

    def loss(self, x: Tensor, target: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The estimated mean of minus log p(target), []: x [..., width], target [...] int64, negative where there is
        none."""
        there = target >= 0
        x, target = x[there], target[there]
        if not len(target):
            return x.sum()  # of nothing: zero
        drawn = torch.multinomial(self.chances, self.samples, replacement=True, generator=generator)
        own = (x * self.weight[target]).sum(-1) + self._bias(target)
        others = x @ self.weight[drawn].T + self._bias(drawn) - (self.samples * self.chances[drawn]).log()
        others = torch.where(drawn == target[:, None], -torch.inf, others)
        return (torch.cat([own[:, None], others], 1).logsumexp(1) - own).mean()

    def _bias(self, which: Tensor) -> Tensor | float:
        return 0.0 if self.bias is None else self.bias[which]
