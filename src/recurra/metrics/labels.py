"""How many names were right."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from recurra import options
from recurra.errors import InputError


def accuracy(actual: Tensor, predicted: Tensor) -> float:
    """The share of equal numbers; below 0 in `actual` is missing. NaN if all are."""
    _expect_alike(actual, predicted)
    there = actual >= 0
    return float((actual == predicted)[there].double().mean())


def confusion(actual: Tensor, predicted: Tensor, classes: int) -> Tensor:
    """[classes, classes] int64: how often each class (row) was predicted as each (column)."""
    _expect_alike(actual, predicted)
    there = actual >= 0
    pairs = actual[there] * classes + predicted[there]
    return torch.bincount(pairs.flatten(), minlength=classes**2).view(classes, classes)


def f1(actual: Tensor, predicted: Tensor, average: str = "macro") -> float:
    """The harmonic mean of precision and recall: of each class that comes in either, and of these the mean ("macro"),
    the mean by how often each comes ("weighted"), or of all decisions together ("micro")."""
    options.choice("average", average, ("macro", "weighted", "micro"))
    _expect_alike(actual, predicted)
    there = actual >= 0
    actual, predicted = actual[there].flatten(), predicted[there].flatten()
    if average == "micro":
        return accuracy(actual, predicted)
    classes = int(max(actual.max(), predicted.max())) + 1 if len(actual) else 0
    table = confusion(actual, predicted, classes).double()
    right, came, said = table.diagonal(), table.sum(1), table.sum(0)
    scores = 2 * right / (came + said)
    used = came + said > 0
    weights = came[used] if average == "weighted" else torch.ones_like(came[used])
    return float((scores[used] * weights).sum() / weights.sum())


def spans(tags: Sequence[str | None]) -> set[tuple[str, int, int]]:
    """(kind, first, behind the last) of each span in tags B-kind, I-kind, O. An I that continues nothing begins a span,
    as in the shared tasks of CoNLL."""
    found, kind, first = set(), "", 0
    for place, tag in enumerate([*tags, "O"]):
        mark, _, own = (tag or "O").partition("-")
        goes_on = mark == "I" and own == kind and kind
        if kind and not goes_on:
            found.add((kind, first, place))
            kind = ""
        if mark in ("B", "I") and not goes_on:
            kind, first = own or "_", place
    return found


def span_f1(actual: Sequence[Sequence[str | None]], predicted: Sequence[Sequence[str | None]]) -> float:
    """F1 of whole spans with their kinds, over all sentences; 0 if there is none right."""
    right = came = said = 0
    for ours, theirs in zip(actual, predicted, strict=True):
        true, told = spans(ours), spans(theirs)
        right, came, said = right + len(true & told), came + len(true), said + len(told)
    return 2 * right / (came + said) if right else 0.0


def kappa(actual: Tensor, predicted: Tensor, classes: int, weights: str = "quadratic") -> float:
    """Cohen's kappa of ordered classes: agreement beyond chance; misses weigh by their distance or its square."""
    options.choice("weights", weights, ("linear", "quadratic"))
    table = confusion(actual, predicted, classes).double().numpy()
    apart = np.abs(np.arange(classes)[:, None] - np.arange(classes)).astype(float)
    apart = apart**2 if weights == "quadratic" else apart
    chance = np.outer(table.sum(1), table.sum(0)) / max(1.0, table.sum())
    return float(1 - (apart * table).sum() / (apart * chance).sum()) if (apart * chance).sum() else 1.0


def _expect_alike(actual: Tensor, predicted: Tensor) -> None:
    if actual.shape != predicted.shape:
        raise InputError(f"predicted is {list(predicted.shape)}; expected {list(actual.shape)}, as actual is")
