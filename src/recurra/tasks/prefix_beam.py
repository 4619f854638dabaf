"""The likeliest tokens of a CTC head, of all paths together, while its steps come."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recurra import options

Tokens = tuple[int, ...]


class PrefixBeam:
    """Keeps the `width` likeliest beginnings, each with the chance of its paths that end in a blank and of those that
    end in its last token.

    Source: prefix search decoding of Graves et al., 2006, cut to a beam as in Hannun, Maas, Jurafsky, Ng, 2014,
    arXiv:1408.2873.

    Args:
        blank: the class that says nothing, the last one.
    """

    def __init__(self, blank: int, width: int = 8):
        self.blank, self.width = options.count("blank", blank), options.count("width", width)
        self._prefixes: list[Tokens] = [()]
        self._blank, self._token = np.zeros(1), np.full(1, -np.inf)

    @property
    def found(self) -> list[tuple[Tokens, float]]:
        """Beginnings and the logarithms of their chances, the likeliest first."""
        total = np.logaddexp(self._blank, self._token)
        return [(self._prefixes[n], float(total[n])) for n in np.argsort(-total, kind="stable")]

    @property
    def best(self) -> list[int]:
        """The likeliest tokens so far."""
        return list(self.found[0][0])

    def update(self, log_p: Tensor) -> None:
        """One step more, the logarithms of the chances of its classes, [blank + 1]."""
        chances = log_p.detach().double().numpy()
        old, total = self._prefixes, np.logaddexp(self._blank, self._token)
        last = np.array([prefix[-1] if prefix else self.blank for prefix in old])
        blank, token = total + chances[self.blank], self._token + chances[last]
        longer = total[:, None] + chances[None, : self.blank]
        # What repeats the last token without a blank between them is the same beginning.
        ends = last < self.blank
        longer[ends, last[ends]] = self._blank[ends] + chances[last[ends]]
        place = {prefix: n for n, prefix in enumerate(old)}
        for n, prefix in enumerate(old):
            if prefix and (parent := place.get(prefix[:-1])) is not None:
                token[n] = np.logaddexp(token[n], longer[parent, prefix[-1]])
                longer[parent, prefix[-1]] = -np.inf
        self._keep(blank, token, longer)

    def _keep(self, blank: NDArray[np.float64], token: NDArray[np.float64], longer: NDArray[np.float64]) -> None:
        """The likeliest of the beginnings as they are and of those that are one token longer."""
        scores = np.concatenate([np.logaddexp(blank, token), longer.reshape(-1)])
        chosen = np.argsort(-scores, kind="stable")[: self.width]
        chosen = chosen[scores[chosen] > -np.inf]
        kept, count = [], len(self._prefixes)
        for n in chosen.tolist():
            parent, said = divmod(n - count, self.blank)
            kept.append(self._prefixes[n] if n < count else (*self._prefixes[parent], said))
        nothing = np.full(longer.size, -np.inf)
        self._blank, self._token = (
            np.concatenate([blank, nothing])[chosen],
            np.concatenate([token, longer.reshape(-1)])[chosen],
        )
        self._prefixes = kept


def searched(log_p: Tensor, blank: int, width: int) -> list[int]:
    """The likeliest tokens of log_p [T, blank + 1]."""
    beam = PrefixBeam(blank, width)
    for step in torch.unbind(log_p):
        beam.update(step)
    return beam.best
