"""Something inside each step: a picture, a sentence of words, a dialogue of sentences."""

from __future__ import annotations

from torch import Tensor, nn

from recurra import options
from recurra.tasks.chain import at_end


class EachStep(nn.Module):
    """A module of [n, ...] at each step by itself: x [B, T, ...] to [B, T, ...], such as convolutions of each picture.

    Source: the pictures' features in Long-term Recurrent Convolutional Networks for Visual Recognition and Description,
    Donahue et al., 2015, arXiv:1411.4389.
    """

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = options.instance("module", module, nn.Module)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, T, ...] to [B, T, ...]."""
        return self.module(x.flatten(0, 1)).unflatten(0, x.shape[:2])


class Nested(nn.Module):
    """A sequence inside each step: x [B, T, S, ...] to [B, T, D], what `inner` gives at the last step of each.

    A level more is one more inside: words in sentences in dialogues. Inner sequences may be of any length: what is
    negative (of whole numbers) or NaN throughout (of others) at their ends is padding, and an empty one gives zeros.

    Args:
        inner: called as a layer is, on [n, S, ...]; its last part may be a pool, which has seen all at the last step.
    """

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = options.instance("inner", inner, nn.Module)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, T, S, ...] to [B, T, D]."""
        flat = x.flatten(0, 1)
        lengths = lengths_of(flat)
        some = lengths > 0
        if some.any():
            y, _ = self.inner(flat[some], lengths=lengths[some])
            found = at_end(y, lengths[some])
        else:  # one step, to know how wide the result is
            found = at_end(self.inner(flat.new_zeros(1, 1, *flat.shape[2:]))[0], None)[:0]
        return (
            found.new_zeros(len(flat), *found.shape[1:])
            .masked_scatter(some[(..., *[None] * (found.dim() - 1))], found)
            .unflatten(0, x.shape[:2])
        )


def lengths_of(x: Tensor) -> Tensor:
    """[n] int64: steps of x [n, S, ...] before the padding at its end."""
    there = ~x.isnan() if x.is_floating_point() else x >= 0
    there = there.flatten(2).any(-1) if x.dim() > 2 else there
    return (there.flip(1).cumsum(1) > 0).sum(1)
