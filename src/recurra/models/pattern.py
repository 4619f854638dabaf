"""The short language in which layers of a model are named: `mamba*3+lstm` is three Mamba layers, then an LSTM."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from recurra.errors import InputError
from recurra.options import LAYERS, count, shown
from recurra.registry import layer_class


def parse(pattern: str) -> list[str]:
    """The layer names of a pattern, in order. Raises InputError if it cannot be read or names an unknown layer."""
    if not isinstance(pattern, str) or not pattern.strip():
        raise InputError(f"pattern is {shown(pattern)}; expected layer names, such as 'mamba*3+lstm'")
    names: list[str] = []
    for part in pattern.split("+"):
        match = re.fullmatch(r"\s*([\w-]+|[\w.]+:[\w.]+)\s*(?:\*\s*([0-9]{1,9}))?\s*", part)
        if not match:
            raise InputError(f"pattern {shown(pattern)}: {shown(part.strip())} is not NAME or NAME*COUNT")
        layer_class(match[1])
        times = int(match[2] or 1)
        if not 1 <= times < LAYERS - len(names):
            raise InputError(
                f"pattern {shown(pattern)}: {shown(part.strip())}; expected 1 to {LAYERS - 1} layers in all"
            )
        names += [match[1]] * times
    return names


def depth(names: list[str], layers: Mapping[str, Mapping[str, Any]]) -> int:
    """Layers on top of one another, those within layers counted; `layers` holds the options of each name.

    Raises InputError if there are more than a model may have.
    """
    total = sum(count("num_layers", layers.get(name, {}).get("num_layers", 1)) for name in names)
    if total >= LAYERS:
        raise InputError(f"pattern and num_layers ask for {total} layers; expected at most {LAYERS - 1}")
    return total
