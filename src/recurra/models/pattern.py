"""The short language in which layers of a model are named: `mamba*3+lstm` is three Mamba layers, then an LSTM."""

from __future__ import annotations

import re

from recurra.errors import InputError
from recurra.registry import layer_class

MOST_LAYERS = 1000
"""More than this is a slip of the finger."""


def parse(pattern: str) -> list[str]:
    """The layer names of a pattern, in order. Raises InputError if it cannot be read or names an unknown layer."""
    if not isinstance(pattern, str) or not pattern.strip():
        raise InputError(f"pattern is {pattern!r}; expected layer names, such as 'mamba*3+lstm'")
    names: list[str] = []
    for part in pattern.split("+"):
        match = re.fullmatch(r"\s*([\w-]+)\s*(?:\*\s*([0-9]{1,9}))?\s*", part)
        if not match:
            raise InputError(f"pattern {pattern!r}: {part.strip()!r} is not NAME or NAME*COUNT")
        layer_class(match[1])
        count = int(match[2] or 1)
        if not 1 <= count <= MOST_LAYERS - len(names):
            raise InputError(f"pattern {pattern!r}: {part.strip()!r}; expected 1 to {MOST_LAYERS} layers in all")
        names += [match[1]] * count
    return names
