"""Tokens that come in the order of the steps, though not at known ones."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recurra import options
from recurra.tasks.heads.crf import inside
from recurra.tasks.heads.head import NOTHING, Around, Head, one_hot

NONE = -1
"""Fills up rows of tokens behind their end."""


class CTC(Head):
    """p(y_1 ... y_L) = the sum over all paths z_1 ... z_T that collapse to y of prod_t softmax(raw_t)[z_t].

    A path says a token or the blank, which is the class behind the last token, at each step; it collapses by taking
    what is repeated once, and blanks out. raw [B, T, classes + 1]; targets [B, L] int64, behind their end -1.

    The loss leaves out targets that are too long for their steps, which no path collapses to; weights are [B].

    Source: Connectionist Temporal Classification, Graves, Fernandez, Gomez, Schmidhuber, 2006.
    """

    kind = "category"

    def __init__(self, classes: int):
        super().__init__()
        self.blank = options.count("classes", classes)
        self.size = classes + 1

    def there(self, target: Tensor) -> Tensor:
        return (target >= 0) & (target < self.blank)

    @property
    def embedded(self) -> int:
        return self.blank

    def embed(self, value: Tensor, around: Around = NOTHING) -> Tensor:  # noqa: ARG002
        return one_hot(value, self.blank)

    def fits(self, target: Tensor, steps: Tensor) -> Tensor:
        """[B] bool: whether targets [B, L] can be said in so many steps [B]: a blank parts equal neighbours."""
        there = self.there(target)
        again = (target[:, 1:] == target[:, :-1]) & there[:, 1:]
        return there.sum(1) + again.sum(1) <= steps

    def surprise(self, raw: Tensor, target: Tensor, around: Around = NOTHING) -> Tensor:
        """[B]: minus the logarithm of the probability of each whole target; inf if it is too long for its steps."""
        steps = inside(raw, around).sum(1)
        fits = self.fits(target, steps)
        return torch.where(fits, self._each(raw, target, steps, fits), torch.inf)

    def _each(self, raw: Tensor, target: Tensor, steps: Tensor, fits: Tensor) -> Tensor:
        """`surprise`, but 0, without a slope, where the target does not fit."""
        lengths = torch.where(fits, self.there(target).sum(1), 0)
        raw = torch.where(inside(raw, Around(lengths=steps))[..., None], raw, 0)
        if not raw.shape[1]:
            return raw.new_zeros(len(raw))  # nothing was read, and nothing is said
        log_p = raw.log_softmax(-1).transpose(0, 1)
        each = nn.functional.ctc_loss(log_p, target.clamp(0), steps, lengths, self.blank, reduction="none")
        return torch.where(fits, each, 0)

    def loss(self, raw: Tensor, target: Tensor, weight: Tensor | None = None, around: Around = NOTHING) -> Tensor:
        """The mean surprise of a token, [], of targets that fit; 0 if there is none."""
        steps = inside(raw, around).sum(1)
        fits = self.fits(target, steps)
        counted = fits.to(raw.dtype) if weight is None else fits * weight
        tokens = (counted * self.there(target).sum(1)).sum()
        each = self._each(raw, target, steps, fits)
        return (each * counted).sum() / torch.where(tokens == 0, 1.0, tokens)

    def predict(self, raw: Tensor, around: Around = NOTHING) -> Tensor:
        """[B, L] int64: what the likeliest path collapses to, behind its end -1; `PrefixBeam` looks at all paths."""
        return self.collapsed(raw.argmax(-1), around)

    def sample(
        self, raw: Tensor, count: int = 1, around: Around = NOTHING, generator: torch.Generator | None = None
    ) -> Tensor:
        """[count, B, L] int64."""
        drawn = torch.multinomial(raw.softmax(-1).flatten(0, 1), count, replacement=True, generator=generator)
        paths = drawn.T.reshape(count * len(raw), raw.shape[1])
        lengths = None if around.lengths is None else around.lengths.repeat(count)
        return self.collapsed(paths, Around(lengths=lengths)).unflatten(0, (count, len(raw)))

    def collapsed(self, path: Tensor, around: Around = NOTHING) -> Tensor:
        """[B, L] int64: the tokens of paths [B, T]."""
        before = nn.functional.pad(path[:, :-1], (1, 0), value=self.blank)[:, : path.shape[1]]
        said = (path != self.blank) & (path != before) & inside(path, around)
        place = torch.where(said, said.cumsum(1) - 1, path.shape[1])
        found = path.new_full((len(path), path.shape[1] + 1), NONE)
        found.scatter_(1, place, torch.where(said, path, NONE))
        longest = int(said.sum(1).max()) if len(path) else 0
        return found[:, :longest]
