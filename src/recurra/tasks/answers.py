"""What estimators answer with: tables of the kind that was asked with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from recurra import options
from recurra.tasks.heads.head import Around, Head


def as_table(kind: type, columns: dict[str, Any]) -> Any:
    """A data frame, where `kind` is one of pandas or polars, else the mapping as it is."""
    return kind(columns) if kind.__module__.partition(".")[0] in ("pandas", "polars") else columns


def described(
    head: Head, raw: Tensor, around: Around, names: Sequence[str], level: Sequence[float], quantiles: Sequence[float],
    samples: int,
) -> dict[str, Any]:  # fmt: skip
    """Columns of a distribution, raw [..., targets, size], for each target by its name: the one value, the bounds of
    each level, a percentage, each quantile and each sample.

    Raises InputError if one of them is out of range.
    """
    bounds = {f"lo-{each:g}": 0.5 - _share(each) / 2 for each in level}
    bounds |= {f"hi-{each:g}": 0.5 + _share(each) / 2 for each in level} | {f"q-{each:g}": each for each in quantiles}
    options.whole("samples", samples)
    point = head.predict(raw, around)
    found = head.quantile(raw, list(bounds.values()), around) if bounds else None
    draws = head.sample(raw, samples, around) if samples else None
    columns: dict[str, Any] = {}
    for n, name in enumerate(names):
        columns[name] = _flat(point[..., n])
        for place, kind in enumerate(bounds):
            assert found is not None
            columns[f"{name}-{kind}"] = _flat(found[..., n, place])
        for draw in range(samples):
            assert draws is not None
            columns[f"{name}-sample-{draw}"] = _flat(draws[draw, ..., n])
    return columns


def _share(level: float) -> float:
    return options.number("level", level, 1e-9, 100) / 100


def _flat(values: Tensor) -> Any:
    return values.detach().reshape(-1).to(torch.float64).numpy()
