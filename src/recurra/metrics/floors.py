"""Forecasts that cost nothing, which every model has to beat, and the windows on which both are measured."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from recurra import options
from recurra.errors import InputError
from recurra.metrics.series import mae, mase


def seasonal_naive(past: Tensor, horizon: int, season: int = 1) -> Tensor:
    """The last season again and again: [..., T] to [..., horizon]. With a season of 1, the last value: naive.

    Where a value is missing, the newest one before it at the same place of the season is taken; NaN if there is none.
    """
    options.count("horizon", horizon)
    options.count("season", season)
    if not past.shape[-1]:
        raise InputError("past is empty; expected at least one time step")
    season = min(season, past.shape[-1])
    past = nn.functional.pad(past, (-past.shape[-1] % season, 0), value=torch.nan)  # whole seasons
    seasons = past.unflatten(-1, (-1, season))
    last = seasons[..., -1, :]
    for back in range(2, seasons.shape[-2] + 1):
        gaps = last.isnan()
        if not gaps.any():
            break
        last = last.where(~gaps, seasons[..., -back, :])
    return last[..., torch.arange(horizon) % season]


def seasonal_naives(values: Tensor, ends: Tensor, horizon: int, season: int = 1) -> Tensor:
    """`seasonal_naive` of the beginnings of a series [T] up to and with each of some time steps [n]: [n, horizon]."""
    options.count("horizon", horizon)
    options.count("season", season)
    rows = -(-len(values) // season)
    place = torch.full((rows * season,), -1)
    place[: len(values)] = torch.arange(len(values)).where(~values.isnan(), -1)
    newest = place.view(rows, season).cummax(0).values.flatten()  # with a value, at the same place of the season
    length = (ends + 1).clamp(max=season)[:, None]
    found = newest[ends[:, None] + 1 - length + torch.arange(horizon) % length]
    return values[found.clamp(min=0)].where(found >= 0, torch.nan)


@dataclass(frozen=True)
class Window:
    """One origin of one series, at which a forecast is made."""

    series: int
    past: Tensor
    """[t], all before the origin."""
    actual: Tensor
    """[horizon], what came."""


def windows(series: list[Tensor], horizon: int, count: int) -> Iterator[Window]:
    """The last `count` stretches of `horizon` time steps of each series [T], side by side, the earliest first.

    Raises InputError, naming the series, if it is too short for them and a past.
    """
    options.count("horizon", horizon)
    options.count("count", count)
    for number, values in enumerate(series):
        need = horizon * count + 1
        if len(values) < need:
            raise InputError(
                f"series {number} has {len(values)} time steps; {count} windows of {horizon} and a past need {need}"
            )
        for place in range(count):
            origin = len(values) - horizon * (count - place)
            yield Window(number, values[:origin], values[origin : origin + horizon])


def floors(series: list[Tensor], horizon: int, count: int, season: int) -> dict[str, dict[str, float]]:
    """MAE and MASE of naive and seasonal naive forecasts, each the mean over all windows.

    MASE is in units of `seasonal_error` of each window's own past, as GIFT-Eval and GluonTS have it.
    """
    names = {"naive": 1} | ({"seasonal naive": season} if season > 1 else {})
    scores: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in names}
    for window in windows(series, horizon, count):
        for name, repeated in names.items():
            forecast = seasonal_naive(window.past, horizon, repeated)
            error = mae(window.actual, forecast)
            scores[name].append((error, mase(window.actual, forecast, window.past, season)))
    return {
        name: {
            measure: float(torch.stack([pair[place] for pair in pairs]).nanmean())
            for place, measure in enumerate(("mae", "mase"))
        }
        for name, pairs in scores.items()
    }
