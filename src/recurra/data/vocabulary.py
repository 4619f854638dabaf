"""The names that a category can have, and their numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from recurra.errors import InputError

MISSING = -1
"""The number of a category that is not there, as NaN is that of a measurement."""


class Vocabulary:
    """Names and their numbers: 0 up to, but not including, `unknown`, which stands for every other name.

    A table of embeddings has `unknown` + 1 rows, a head that never says "unknown" has `unknown` of them.

    Raises InputError if a name comes twice.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.names = tuple(names)
        self._numbers = {name: number for number, name in enumerate(self.names)}
        if len(self._numbers) < len(self.names):
            twice = Counter(self.names).most_common(1)[0][0]
            raise InputError(f"names has {twice!r} twice; expected each name once")

    @classmethod
    def of(cls, values: Iterable[str | None], least: int = 1) -> Vocabulary:
        """The names that come at least so many times, in the order of the alphabet.

        With `least` = 2 what comes once is unknown, so that a model learns what to do with it.
        """
        often = Counter(value for value in values if value is not None)
        return cls(sorted(name for name, times in often.items() if times >= least))

    @property
    def unknown(self) -> int:
        """The number of whatever has no name here, which is how many have one."""
        return len(self.names)

    def __contains__(self, name: object) -> bool:
        return name in self._numbers

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self.names == other.names

    def __hash__(self) -> int:
        return hash(self.names)

    def encode(self, values: Sequence[str | None]) -> Tensor:
        """[len(values)] int64; None is MISSING."""
        numbers, unknown = self._numbers, self.unknown
        return torch.tensor(
            [MISSING if value is None else numbers.get(value, unknown) for value in values], dtype=torch.int64
        )

    def decode(self, numbers: Tensor) -> list[str | None]:
        """A name for each number of a flat tensor; None where it is missing or unknown."""
        return [self.names[n] if 0 <= n < self.unknown else None for n in numbers.tolist()]
