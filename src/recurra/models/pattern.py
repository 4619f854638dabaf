"""The short language in which layers of a model are named.

`mamba*3+lstm` is three Mamba layers, then an LSTM; `mamba2|attention` are two side by side, whose outputs are added.
`attention@far` is an attention with options of its own, under that very name in `layers`; wherever a model names it
again stands the same layer, weights and all. Besides recurrences a model may hold channel mixers: see `mixers.py`.
`transformer@a>mamba2` is a Mamba-2 that is fed by a transformer, which reads what was embedded as well: see `fed.py`.
All blocks that name this one are fed by the same weights.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from recurra.errors import InputError
from recurra.options import LAYERS, count, shown
from recurra.registry import OWN, layer_class

CHANNEL_MIXERS = ("mlp", "experts")
"""Names that stand for no recurrence, unless one was registered under them."""

FEEDER = "transformer"
"""What may stand in front of `>`."""

LAYER = r"(?:[\w-]+|[\w.]+:[\w.]+)(?:@[\w-]+)?"
PART = re.compile(rf"\s*((?:{FEEDER}(?:@[\w-]+)?\s*>\s*)?{LAYER}(?:\s*\|\s*{LAYER})*)\s*(?:\*\s*([0-9]{{1,9}}))?\s*")


def parse(pattern: str) -> list[str]:
    """What each block of a pattern holds, in order: a layer, or `a|b` of layers side by side.

    Raises InputError if it cannot be read or names an unknown layer.
    """
    if not isinstance(pattern, str) or not pattern.strip():
        raise InputError(f"pattern is {shown(pattern)}; expected layer names, such as 'mamba*3+lstm'")
    names: list[str] = []
    for part in pattern.split("+"):
        match = PART.fullmatch(part)
        if not match:
            raise InputError(
                f"pattern {shown(pattern)}: {shown(part.strip())} is not NAME, NAME|NAME, {FEEDER}>NAME or NAME*COUNT"
            )
        name = re.sub(r"\s", "", match[1])
        for one in side_by_side(name):
            if not is_channel_mixer(one):
                layer_class(kind(one))
        times = int(match[2] or 1)
        if not 1 <= times < LAYERS - len(names):
            raise InputError(
                f"pattern {shown(pattern)}: {shown(part.strip())}; expected 1 to {LAYERS - 1} layers in all"
            )
        names += [name] * times
    return names


def side_by_side(name: str) -> list[str]:
    """The layers that stand side by side in a block, what feeds them left out."""
    return name.rpartition(">")[2].split("|")


def feeder(name: str) -> str | None:
    """What feeds the layers of a block, if anything does."""
    return name.rpartition(">")[0] or None


def all_named(names: list[str]) -> set[str]:
    """All that may have options in a model whose blocks hold these."""
    return {one for name in names for one in [*side_by_side(name), feeder(name)] if one is not None}


def kind(one: str) -> str:
    """The layer's own name, without what tells it from others of its kind."""
    return one.split("@")[0]


def is_channel_mixer(one: str) -> bool:
    """Whether it mixes channels and no time."""
    return kind(one) in CHANNEL_MIXERS and kind(one) not in OWN


def kinds(pattern: str) -> set[str]:
    """The layers that a pattern names, each once, by their own names; channel mixers are none."""
    return {kind(one) for name in parse(pattern) for one in side_by_side(name) if not is_channel_mixer(one)}


def depth(names: list[str], layers: Mapping[str, Mapping[str, Any]]) -> int:
    """Layers on top of one another, those within layers counted; `layers` holds the options of each name.

    Raises InputError if there are more than a model may have.
    """
    total = sum(
        count("num_layers", layers.get(one, {}).get("num_layers", 1)) for name in names for one in side_by_side(name)
    )
    if total >= LAYERS:
        raise InputError(f"pattern and num_layers ask for {total} layers; expected at most {LAYERS - 1}")
    return total
