"""Forecasts made long ago, held to what came: all origins in one pass over each series."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from recurra import options
from recurra.data.sequences import Sequences
from recurra.errors import InputError
from recurra.metrics.floors import seasonal_naives
from recurra.metrics.series import coverage, pinball, seasonal_errors
from recurra.tasks import horizon
from recurra.tasks.heads.head import Around
from recurra.tasks.model import Model, Read, joined
from recurra.tasks.passing import Pass

LEVELS = torch.arange(1, 10) / 10
"""Of the quantiles whose pinball loss is taken for CRPS."""


class Report(dict[str, Any]):
    """What an evaluation found, plain data; printed, a table."""

    def __str__(self) -> str:
        lines = [f"{'':18}{'MASE':>10}{'MAE':>14}"]
        rows = {"this model": self} | self["floors"]
        lines += [f"{name:18}{row['mase']:>10.4f}{row['mae']:>14.6g}" for name, row in rows.items()]
        covered = ", ".join(f"{share:.1%} within {level} %" for level, share in self["coverage"].items())
        told = f"{self['origins']} forecasts of {self['horizon']} steps; CRPS {self['crps']:.4f}; {covered}; "
        told += f"MASE is off by {self['mase_interval']:.4f} at most in 95 of 100 such draws of origins"
        return "\n".join([*lines, told])


def origins(sequences: Sequences, horizon: int, windows: int, stride: int) -> Tensor:
    """[S, windows] int64: the flat rows after which forecasts are made, the last one `horizon` steps before the end.

    Raises InputError, naming the series, if one is too short.
    """
    last = sequences.lengths - 1 - horizon
    first = last - stride * (options.count("windows", windows) - 1)
    if (short := (first < 0).nonzero()).numel():
        which = int(short[0])
        need = horizon + stride * (windows - 1) + 1
        raise InputError(
            f"series {sequences.ids[which]!r} has {int(sequences.lengths[which])} steps; {windows} windows of {horizon}"
            f" and a past need {need}"
        )
    return sequences.offsets[:-1, None] + first[:, None] + stride * torch.arange(windows)


@torch.no_grad()
def forecasts(model: Model, sequences: Sequences, rows: Tensor) -> tuple[Tensor, Read]:
    """What is forecast after flat rows [n], rising: raw [n, 1, horizon, targets, size], and what had been read."""
    parts = []
    for piece in Pass(model, sequences):
        b, t = torch.isin(piece.rows, rows).nonzero(as_tuple=True)
        parts.append((piece.rows[b, t], piece.read.at(b, t)))
    order = torch.cat([found for found, _ in parts]).argsort()
    read = joined([read for _, read in parts])
    read = read.at(order, torch.zeros_like(order))
    return horizon.raw_after(model, read, sequences, rows[:, None]), read


def evaluate(
    model: Model, sequences: Sequences, windows: int, stride: int, season: int, level: list[float],
    corrected: Callable[[Tensor, Around, list[float]], Tensor] | None = None,
) -> Report:  # fmt: skip
    """Of forecasts from `windows` origins of each series, `stride` steps apart; `corrected` says quantiles in place of
    the head."""
    began = time.perf_counter()
    options.count("season", season)
    steps, head = horizon.outlook(model).horizon, model.head
    rows = origins(sequences, steps, windows, options.count("stride", stride)).reshape(-1)
    raw, read = forecasts(model, sequences, rows)
    actual = horizon.truth(model, sequences, rows)  # [n, horizon, targets]
    about = read.around(actual.shape[-1])
    point = head.predict(raw, about)[:, 0]
    shares = [share for each in level for share in (0.5 - each / 200, 0.5 + each / 200)]
    wanted = [*LEVELS.tolist(), *shares]
    quantiles = head.quantile(raw, wanted, about)[:, 0] if corrected is None else corrected(point, about, wanted)
    past, floor = _past(sequences, rows, steps, season)
    error = (actual - point).abs()
    loss = pinball(actual, quantiles[..., : len(LEVELS)], LEVELS.to(actual.dtype))
    bounds = quantiles[..., len(LEVELS) :]
    each = (error.nanmean(1) / past).nanmean(-1)
    return Report(
        **_scores(error, past),
        mase_interval=1.96 * float(each.std()) / math.sqrt(len(each)) if len(each) > 1 else math.nan,
        rmse=float((actual - point).square().nanmean().sqrt()),
        crps=float(2 * loss.mean(-1).nansum() / actual.abs().nansum()),
        coverage={
            f"{one:g}": float(
                coverage(actual.flatten(), bounds[..., 2 * n].flatten(), bounds[..., 2 * n + 1].flatten())
            )
            for n, one in enumerate(level)
        },
        by_horizon=[{"step": j + 1, "mae": float(error[:, j].nanmean())} for j in range(steps)],
        floors={name: _scores((actual - value).abs(), past) for name, value in floor.items()},
        origins=len(rows),
        horizon=steps,
        parameters=sum(p.numel() for p in model.parameters()),
        seconds=time.perf_counter() - began,
    )


def _scores(error: Tensor, past: Tensor) -> dict[str, float]:
    """Of errors [n, horizon, targets]; MASE is the mean over origins, each in units of its own past."""
    return {"mae": float(error.nanmean()), "mase": float((error.nanmean(1) / past).nanmean())}


def _past(sequences: Sequences, rows: Tensor, steps: int, season: int) -> tuple[Tensor, dict[str, Tensor]]:
    """The seasonal error up to each origin, [n, targets], and what costs nothing, [n, horizon, targets]."""
    names = {"naive": 1} | ({"seasonal naive": season} if season > 1 else {})
    values, which = horizon.values(sequences).double(), sequences.sequence_of[rows]
    errors = torch.empty(len(rows), values.shape[1], dtype=values.dtype)
    repeated = {name: errors.new_empty(len(rows), steps, values.shape[1]) for name in names}
    for number in which.unique().tolist():
        own, begin = which == number, int(sequences.offsets[number])
        series, ends = values[begin : int(sequences.offsets[number + 1])].T, rows[own] - begin
        errors[own] = seasonal_errors(series, season)[:, ends].T
        for name, length in names.items():
            repeated[name][own] = torch.stack([seasonal_naives(one, ends, steps, length) for one in series], -1)
    return errors, repeated
