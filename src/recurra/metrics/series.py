"""Errors of forecasts. NaN in what came is missing, and counts nowhere; where nothing counts, the result is NaN."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recurra import options
from recurra.errors import InputError


def mae(actual: Tensor, forecast: Tensor) -> Tensor:
    """Mean absolute error over the last axis: [..., h] and [..., h] to [...]."""
    return (actual - forecast).abs().nanmean(-1)


def seasonal_error(past: Tensor, season: int) -> Tensor:
    """What repeating the season misses on the past by, on average: [..., T] to [...].

    A past that is not longer than the season is measured by the value before instead.
    """
    options.count("season", season)
    return _lagged(past, season).abs().nanmean(-1)


def seasonal_errors(values: Tensor, season: int) -> Tensor:
    """`seasonal_error` of each beginning, up to and with each time step: [..., T] to [..., T]."""
    options.count("season", season)
    return _means(values, 1).where(torch.arange(values.shape[-1]) < season, _means(values, season))


def _means(values: Tensor, season: int) -> Tensor:
    """The mean so far of how far off the season before was; NaN where there is none, [..., T]."""
    off = _lagged(values, season).abs() if season < values.shape[-1] else values[..., :0]
    there = ~off.isnan()
    found = torch.where(there, off, 0).cumsum(-1) / there.cumsum(-1)
    return nn.functional.pad(found, (values.shape[-1] - off.shape[-1], 0), value=torch.nan)


def mase(actual: Tensor, forecast: Tensor, past: Tensor, season: int) -> Tensor:
    """Mean absolute scaled error (Hyndman and Koehler, 2006): in units of `seasonal_error` of the past, [...]."""
    return mae(actual, forecast) / seasonal_error(past, season)


def rmsse(actual: Tensor, forecast: Tensor, past: Tensor, season: int) -> Tensor:
    """Root mean squared scaled error, as in the M5 competition: squared errors in units of those of the naive forecast
    on the past, [...]."""
    scale = _lagged(past, season).square().nanmean(-1)
    return ((actual - forecast).square().nanmean(-1) / scale).sqrt()


def pinball(actual: Tensor, quantiles: Tensor, levels: Tensor) -> Tensor:
    """The loss whose least is at the true quantiles: [..., h], [..., h, Q], [Q] to [..., h, Q]."""
    if quantiles.shape[-1:] != levels.shape:
        raise InputError(
            f"quantiles are {list(quantiles.shape)}; expected one for each of {len(levels)} levels, at the end"
        )
    below = actual.unsqueeze(-1) - quantiles
    return torch.maximum(levels * below, (levels - 1) * below)


def crps(actual: Tensor, samples: Tensor) -> Tensor:
    """Continuous ranked probability score of samples: [..., h], [..., h, n] to [..., h].

    E|X - y| - E|X - X'| / 2 over the samples as they are (Gneiting and Raftery, 2007), in units of the series.
    """
    count = samples.shape[-1]
    ordered = samples.sort(-1).values
    place = torch.arange(count, dtype=samples.dtype, device=samples.device)
    apart = (ordered * (2 * place - count + 1)).sum(-1) / count**2
    return (samples - actual.unsqueeze(-1)).abs().mean(-1) - apart


def scaled_crps(actual: Tensor, quantiles: Tensor, levels: Tensor) -> Tensor:
    """Twice the pinball loss, mean over the levels, summed over all else and divided by the sum of what came in
    absolute value: the weighted quantile loss, which tends to CRPS as levels become dense. [..., h], [..., h, Q], [Q]
    to []."""
    loss = 2 * pinball(actual, quantiles, levels).mean(-1)
    return loss.nansum() / actual.abs().nansum()


def coverage(actual: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The share of what came that lies between the two, bounds included, over the last axis: [...]."""
    inside = ((actual >= low) & (actual <= high)).to(actual.dtype)
    return inside.where(~actual.isnan(), torch.nan).nanmean(-1)


def _lagged(past: Tensor, season: int) -> Tensor:
    """Differences from the season before, or from the value before if there is none."""
    season = season if season < past.shape[-1] else 1
    return past[..., season:] - past[..., :-season]
