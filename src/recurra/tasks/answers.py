"""What estimators answer with: tables of the kind that was asked with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from recurra import options


def as_table(kind: type, columns: dict[str, Any]) -> Any:
    """A data frame, where `kind` is one of pandas or polars, else the mapping as it is."""
    return kind(columns) if kind.__module__.partition(".")[0] in ("pandas", "polars") else columns


def bounds(level: Iterable[float], quantiles: Iterable[float]) -> dict[str, float]:
    """Ends of columns, and the probability that each is the quantile of: both bounds of each level, a percentage, and
    quantiles as they are. Raises InputError if one is out of range."""
    level = list(level)
    found = {f"lo-{each:g}": 0.5 - _share(each) / 2 for each in level}
    found |= {f"hi-{each:g}": 0.5 + _share(each) / 2 for each in level}
    return found | {f"q-{each:g}": each for each in quantiles if options.number("quantiles", each, 1e-9, 1)}


def described(
    names: Sequence[str], point: Tensor, ends: Sequence[str], quantiles: Callable[[], Tensor], draws: Tensor | None
) -> dict[str, Any]:
    """Columns for each target by its name: the one value, point [..., targets]; for each end of a column its quantile,
    [..., targets, ends]; each draw, [draws, ..., targets]."""
    found = quantiles() if ends else None
    columns: dict[str, Any] = {}
    for n, name in enumerate(names):
        columns[name] = _flat(point[..., n])
        for place, end in enumerate(ends):
            assert found is not None
            columns[f"{name}-{end}"] = _flat(found[..., n, place])
        for number, draw in enumerate([] if draws is None else draws):
            columns[f"{name}-sample-{number}"] = _flat(draw[..., n])
    return columns


def _share(level: float) -> float:
    return options.number("level", level, 1e-9, 100) / 100


def _flat(values: Tensor) -> Any:
    return values.detach().reshape(-1).to(torch.float64).numpy()
