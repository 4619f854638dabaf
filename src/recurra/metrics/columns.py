"""What each column is worth: to tell classes apart by itself, or to a model that is trained with it or without."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from recurra import options
from recurra.errors import InputError

Score = Callable[[list[str]], float]
"""How good a model is that was trained on these columns: higher is better."""


def relief_f(X: Tensor, y: Tensor, neighbours: int = 10) -> Tensor:
    """[columns]: how much further apart the nearest cases of other classes are in each column than the nearest of the
    same class, on a scale on which each column reaches from 0 to 1; those of other classes count by how often they are.

    Args:
        X: [cases, columns], such as `mean` and deviation of sequences.
        y: [cases] int64, their classes.

    Raises:
        InputError: a number is missing, shapes do not fit, or a class has a single case or is the only one.

    Source: Estimating Attributes: Analysis and Extensions of RELIEF, Kononenko, 1994, ECML, over all cases.
    """
    options.count("neighbours", neighbours)
    if X.dim() != 2 or y.shape != X.shape[:1] or not X.isfinite().all():
        raise InputError(f"X is {list(X.shape)}, y {list(y.shape)}; expected finite [cases, columns] and [cases]")
    classes, counts = y.unique(return_counts=True)
    if len(classes) < 2 or counts.min() < 2:
        raise InputError("y holds a class of a single case, or one class only; expected two classes of two cases each")
    X = X.double()
    X = (X - X.amin(0)) / (X.amax(0) - X.amin(0)).clamp(min=1e-30)
    share = counts / counts.sum()
    weights = torch.zeros(X.shape[1], dtype=torch.float64)
    for case in range(len(X)):
        apart = (X - X[case]).abs()
        far = apart.sum(1)
        own = float(share[classes == y[case]])
        for which, chance in zip(classes.tolist(), share.tolist(), strict=True):
            others = ((y == which) & (torch.arange(len(X)) != case)).nonzero()[:, 0]
            nearest = others[far[others].argsort(stable=True)[:neighbours]]
            told = apart[nearest].mean(0)
            weights += -told if which == int(y[case]) else chance / (1 - own) * told
    return weights / len(X)


def forward_selection(columns: Sequence[str], score: Score, count: int | None = None) -> list[tuple[str, float]]:
    """Columns in the order in which they help most, each with the score of it and those before: begin with none, and
    take what scores highest beside those taken, until there are `count`, or none makes it better.

    Raises InputError if there are no columns.
    """
    if not columns:
        raise InputError("columns is empty; expected names")
    wanted = len(columns) if count is None else options.count("count", count, len(columns) + 1)
    taken: list[tuple[str, float]] = []
    left = list(columns)
    while len(taken) < wanted:
        scores = [score([name for name, _ in taken] + [each]) for each in left]
        best = max(range(len(left)), key=scores.__getitem__)
        if count is None and taken and scores[best] <= taken[-1][1]:
            break
        taken.append((left.pop(best), scores[best]))
    return taken


def ablation(columns: Sequence[str], score: Score) -> dict[str, float]:
    """What is lost without each column: the score of all, less that of all others, the largest loss first."""
    if len(columns) < 2:
        raise InputError(f"columns is {options.shown(columns)}; expected two names at least")
    whole = score(list(columns))
    lost = {name: whole - score([each for each in columns if each != name]) for name in columns}
    return dict(sorted(lost.items(), key=lambda pair: -pair[1]))
