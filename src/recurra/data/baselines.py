"""How few bits per byte others need for the same held-out text."""

from __future__ import annotations

import gzip
import lzma
import math
from collections import Counter


def baselines(training: bytes, held_out: bytes) -> dict[str, float]:
    """Bits per byte on `held_out` of gzip -9 and xz, which see only it, and of a trigram model of the training text."""
    return {
        "gzip": 8 * len(gzip.compress(held_out, 9)) / len(held_out),
        "xz": 8 * len(lzma.compress(held_out, preset=9 | lzma.PRESET_EXTREME)) / len(held_out),
        "trigram": trigram(training, held_out),
    }


def trigram(training: bytes, held_out: bytes) -> float:
    """Bits per byte of a byte trigram model, backed off to shorter contexts by Witten and Bell's rule (1991)."""
    counts: list[Counter[bytes]] = [Counter() for _ in range(4)]
    kinds: list[Counter[bytes]] = [Counter() for _ in range(3)]
    for order in range(1, 4):
        for i in range(len(training) - order + 1):
            counts[order][training[i : i + order]] += 1
        for gram in counts[order]:
            kinds[order - 1][gram[:-1]] += 1
    totals: list[Counter[bytes]] = [Counter() for _ in range(3)]
    for order in range(3):
        for gram, count in counts[order + 1].items():
            totals[order][gram[:-1]] += count
    bits = 0.0
    text = training[-2:] + held_out
    start = len(text) - len(held_out)
    for i in range(start, len(text)):
        odds = 1 / 256
        for order in range(min(3, i + 1)):
            context = text[i - order : i]
            seen, different = totals[order][context], kinds[order][context]
            if seen:
                odds = (counts[order + 1][context + text[i : i + 1]] + different * odds) / (seen + different)
        bits -= math.log2(odds)
    return bits / len(held_out)
