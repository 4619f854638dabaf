"""The short language in which layers of a model are named: `mamba*3+lstm` is three Mamba layers, then an LSTM."""

from __future__ import annotations

import re

from recurra.errors import InputError
from recurra.registry import layer_class


def parse(pattern: str) -> list[str]:
    """The layer names of a pattern, in order. Raises InputError if it cannot be read or names an unknown layer."""
    if not isinstance(pattern, str) or not pattern.strip():
        raise InputError(f"pattern is {pattern!r}; expected layer names, such as 'mamba*3+lstm'")
    names: list[str] = []
    for part in pattern.split("+"):
        match = re.fullmatch(r"\s*([\w-]+)\s*(?:\*\s*(\d+))?\s*", part)
        if not match or match[2] == "0":
            raise InputError(f"pattern {pattern!r}: {part.strip()!r} is not NAME or NAME*COUNT")
        layer_class(match[1])
        names += [match[1]] * int(match[2] or 1)
    return names
