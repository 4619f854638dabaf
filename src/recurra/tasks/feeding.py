"""What a model reads while it learns to go on: the truth, what it said itself, or both in turn."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from recurra import options
from recurra.errors import InputError

Feed = tuple[int, int]
"""So many steps of the truth, then so many of the model's own; 0 of its own is the truth alone."""
TRUTH: Feed = (1, 0)


def feed(value: Any) -> Feed:
    """How a model is fed: "truth"; "own", all but the first step; or (u, v), u steps of truth and v of its own in turn.

    Raises InputError if it is none of these.

    Source: of turns, Auto-Conditioned Recurrent Networks, Zhou, Li, Xiao, He, Huang, Li, 2017, arXiv:1707.05363.
    """
    if value == "truth":
        return TRUTH
    if value == "own":
        return (1, options.MOST)
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise InputError(f"feed is {options.shown(value)}; expected 'truth', 'own', or (steps of truth, steps of own)")
    return options.count("feed[0]", value[0]), options.whole("feed[1]", value[1])


def turns(how: Feed, steps: int) -> Iterator[tuple[int, int, bool]]:
    """(first, last, own) of the stretches of so many steps: whether the model reads what it said itself."""
    first = 0
    while how[1] and first < steps:
        for length, own in zip(how, (False, True), strict=True):
            last = min(first + length, steps)
            if last > first:
                yield first, last, own
            first = last
    if not how[1] and steps:
        yield 0, steps, False
