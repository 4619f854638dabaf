"""How far written sequences are from those expected."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence

from recurra import options
from recurra.errors import InputError

Tokens = Sequence[Hashable]


def edit_distance(actual: Tokens, predicted: Tokens) -> int:
    """The fewest insertions, deletions and replacements that make one of the other (Levenshtein, 1966)."""
    row = list(range(len(predicted) + 1))
    for place, token in enumerate(actual, 1):
        corner, row[0] = row[0], place
        for column, other in enumerate(predicted, 1):
            corner, row[column] = row[column], min(row[column] + 1, row[column - 1] + 1, corner + (token != other))
    return row[-1]


def error_rate(actual: Sequence[Tokens], predicted: Sequence[Tokens]) -> float:
    """Edits over all sequences for each token expected: word error of words, phone error of phones, CER of letters."""
    tokens = sum(map(len, actual))
    if not tokens:
        raise InputError("actual holds no token; expected at least one")
    return sum(edit_distance(a, p) for a, p in zip(actual, predicted, strict=True)) / tokens


def exact_error(actual: Sequence[Sequence[Tokens]], predicted: Sequence[Tokens]) -> float:
    """The share of predictions that are none of their right answers: the word error of pronunciations."""
    wrong = [tuple(p) not in {tuple(a) for a in answers} for answers, p in zip(actual, predicted, strict=True)]
    if not wrong:
        raise InputError("predicted holds no sequence; expected at least one")
    return sum(wrong) / len(wrong)


def bleu(actual: Sequence[Tokens], predicted: Sequence[Tokens], order: int = 4) -> float:
    """BLEU of token lists with one reference each (Papineni et al., 2002), of all together, 0 to 100, not smoothed."""
    options.count("order", order)
    matches, totals = [0] * order, [0] * order
    for ours, theirs in zip(actual, predicted, strict=True):
        for n in range(order):
            want, have = _grams(ours, n + 1), _grams(theirs, n + 1)
            matches[n] += (want & have).total()
            totals[n] += have.total()
    if 0 in matches:
        return 0.0
    precision = sum(math.log(match / total) for match, total in zip(matches, totals, strict=True)) / order
    expected, written = sum(map(len, actual)), sum(map(len, predicted))
    return 100 * math.exp(precision + min(0.0, 1 - expected / written))


def _grams(tokens: Tokens, size: int) -> Counter[Tokens]:
    return Counter(tuple(tokens[n : n + size]) for n in range(len(tokens) - size + 1))
