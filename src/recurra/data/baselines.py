"""How few bits per byte others need for the same held-out text."""

from __future__ import annotations

import gzip
import lzma

import numpy as np
from numpy.typing import NDArray

from recurra import options
from recurra.errors import InputError


def baselines(training: bytes, held_out: bytes) -> dict[str, float]:
    """Bits per byte on `held_out` of gzip -9 and xz, which see only it, and of a trigram model of the training text.

    Raises InputError if there is no held-out text.
    """
    options.instance("training", training, bytes)
    options.instance("held_out", held_out, bytes)
    if not held_out:
        raise InputError("held_out is empty; expected text to compress")
    return {
        "gzip": 8 * len(gzip.compress(held_out, 9)) / len(held_out),
        "xz": 8 * len(lzma.compress(held_out, preset=9 | lzma.PRESET_EXTREME)) / len(held_out),
        "trigram": trigram(training, held_out),
    }


def trigram(training: bytes, held_out: bytes) -> float:
    """Bits per byte of a byte trigram model, backed off to shorter contexts by Witten and Bell's rule (1991).

    P(byte | context) = (count + kinds * P(byte | shorter context)) / (total + kinds), where kinds is the number of
    different bytes seen after the context; a context never seen says what the shorter one says.
    """
    text = np.frombuffer(training + held_out, np.uint8).astype(np.int64)
    odds = np.full(len(held_out), 1 / 256)
    for order in range(min(3, len(training))):
        grams = sum(text[order - k : len(text) - k] << (8 * k) for k in range(order + 1))
        assert isinstance(grams, np.ndarray)
        learnt, asked = grams[: len(training) - order], grams[len(training) - order :]
        count, total, kinds = _counts(learnt, asked)
        odds = (count + kinds * odds) / np.maximum(1, total + kinds) + (total == 0) * odds
    return float(-np.log2(odds).mean())


def _counts(learnt: NDArray[np.int64], asked: NDArray[np.int64]) -> tuple[NDArray[np.int64], ...]:
    """For each gram asked for: how often it was learnt, how often its context was, with how many last bytes."""
    grams, often = np.unique(learnt, return_counts=True)
    contexts, first, kinds = np.unique(grams >> 8, return_index=True, return_counts=True)
    totals = np.add.reduceat(often, first)
    return (
        _look_up(asked, grams, often),
        _look_up(asked >> 8, contexts, totals),
        _look_up(asked >> 8, contexts, kinds),
    )


def _look_up(keys: NDArray[np.int64], known: NDArray[np.int64], values: NDArray[np.int64]) -> NDArray[np.int64]:
    """The value of each key, 0 for those not known; `known` is sorted."""
    place = np.searchsorted(known, keys).clip(max=len(known) - 1)
    return np.where(known[place] == keys, values[place], 0)
