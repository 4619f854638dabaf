"""What positions in assets would have earned, and which shares of each to hold.

Returns are those of one time step, such as 0.01 for one per cent; positions are shares of the capital, negative where
an asset is sold short, held from one time step to the next.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from recurra import options
from recurra.errors import InputError


class Traded(dict[str, Any]):
    """What positions earned, plain data; printed, a few lines."""

    def __str__(self) -> str:
        lines = [f"{'':12} {'return':>8} {'a year':>8} {'risk':>8} {'Sharpe':>8} {'fall':>8}"]
        for name in ("strategy", "hold"):
            own = self[name]
            told = (f"{100 * own[each]:7.2f}%" for each in ("total", "annual", "risk"))
            lines.append(f"{name:12} {' '.join(told)} {own['sharpe']:8.2f} {100 * own['fall']:7.2f}%")
        lines += [f"{name:12} {100 * earned:7.2f}%" for name, earned in self["groups"].items()]
        return "\n".join(lines)


def returns(prices: Tensor) -> Tensor:
    """Of prices [T, ...], what each earned since the step before, [T - 1, ...].

    Raises InputError if a price is not positive.
    """
    if not (prices > 0).all():
        raise InputError("prices holds what is not above 0; expected prices of every asset at every step")
    return prices[1:] / prices[:-1] - 1


def by_rule(expected: Tensor, threshold: float = 0.0, short: bool = False) -> Tensor:
    """Buy what is expected to rise: 1 where the expected return [...] is above the threshold, -1 (with `short`) where
    it is below minus that, else 0."""
    options.number("threshold", threshold, 0)
    bought = (expected > threshold).to(expected.dtype)
    return bought - (expected < -threshold).to(expected.dtype) if options.flag("short", short) else bought


def trade(
    earned: Tensor,
    positions: Tensor,
    *,
    cost: float = 0.0,
    per_year: float = 252,
    groups: Mapping[str, Sequence[int]] | None = None,
) -> Traded:
    """What positions would have earned, beside equal shares of all that are held throughout.

    Args:
        earned: [T, assets], or [T] of one: what each asset returns over a step.
        positions: of the same shape: what is held over that step, decided before it.
        cost: of changing a position, as a share of what is bought or sold.
        per_year: time steps in a year.
        groups: names of sectors, each with the numbers of its assets: what each earned is told by its name, the best
            first.

    Returns:
        under "strategy" and "hold": `total` and `annual` return; `risk`, the deviation of a year's return; `sharpe`,
        the mean return by its deviation, of a year; `sortino`, the same by the deviation of losses alone; `fall`, the
        deepest from a height reached before. `won`, the share of steps in a position that earned; `turnover`, what is
        bought and sold at a step on average.

    Raises:
        InputError: shapes differ, a return is missing, or there is no time step.
    """
    if earned.shape != positions.shape or earned.dim() not in (1, 2):
        raise InputError(
            f"positions is {list(positions.shape)}; expected [T] or [T, assets] as earned, {list(earned.shape)}"
        )
    if not earned.shape[0] or not (earned.isfinite() & positions.isfinite()).all():
        raise InputError("earned and positions have no time step, or a number is missing; expected finite ones")
    options.number("cost", cost, 0)
    options.number("per_year", per_year, 0)
    earned, positions = (t.double().reshape(len(t), -1) for t in (earned, positions))
    moved = (positions - torch.cat([torch.zeros_like(positions[:1]), positions[:-1]])).abs()
    each = positions * earned - cost * moved
    held = positions != 0
    sectors = {name: float(each[:, list(own)].sum(1).add(1).prod() - 1) for name, own in (groups or {}).items()}
    return Traded(
        strategy=_measured(each.sum(1), per_year),
        hold=_measured(earned.mean(1), per_year),
        won=float((each > 0)[held].double().mean()) if held.any() else math.nan,
        turnover=float(moved.sum(1).mean()),
        groups=dict(sorted(sectors.items(), key=lambda pair: -pair[1])),
    )


def _measured(earned: Tensor, per_year: float) -> dict[str, float]:
    """Of the returns [T] of a whole portfolio."""
    capital = (1 + earned).clamp(min=0).cumprod(0)
    highest = torch.cat([torch.ones_like(capital[:1]), capital]).cummax(0).values[1:]
    mean, spread, year = float(earned.mean()), float(earned.std(correction=0)), math.sqrt(per_year)
    losses = float(earned.clamp(max=0).square().mean().sqrt())
    return {
        "total": float(capital[-1]) - 1,
        "annual": float(capital[-1]) ** (per_year / len(earned)) - 1,
        "risk": spread * year,
        "sharpe": year * mean / spread if spread else 0.0,
        "sortino": year * mean / losses if losses else 0.0,
        "fall": float((1 - capital / highest).max()),
    }


def minimum_risk(earned: Tensor) -> Tensor:
    """[assets]: shares, none negative, of the least variance of past returns [T, assets]. Raises InputError as all of
    these do if there are fewer than two time steps, or a return is missing."""
    covariance = _covariance(earned)
    return _shares(covariance, torch.ones_like(covariance[0]))


def maximum_sharpe(earned: Tensor, expected: Tensor | None = None) -> Tensor:
    """[assets]: shares, none negative, whose expected return [assets] is highest in units of its deviation; by default
    the mean of past returns [T, assets] is expected. All zero, which is to hold nothing, where nothing is to be earned.
    """
    covariance = _covariance(earned)
    wished = earned.double().mean(0) if expected is None else expected.double()
    if wished.shape != covariance.shape[:1]:
        raise InputError(f"expected is {list(wished.shape)}; expected one number for each of {len(covariance)} assets")
    return _shares(covariance, wished)


def eigen_portfolios(earned: Tensor) -> Tensor:
    """[portfolios, assets]: the principal components of standardised returns [T, assets], the one that explains most
    first; each asset's share is divided by its deviation, and the sizes of all sum to one.

    Source: Statistical Arbitrage in the U.S. Equities Market, Avellaneda, Lee, 2010, Quantitative Finance 10.
    """
    covariance = _covariance(earned)
    spread = covariance.diagonal().sqrt().clamp(min=1e-12)
    components = torch.linalg.eigh(covariance / spread / spread[:, None]).eigenvectors.flip(1).T
    held = components / spread
    # A component has no sign of its own: most of it is bought.
    held = held * held.sum(1, keepdim=True).sign().where(held.sum(1, keepdim=True) != 0, 1.0)
    return held / held.abs().sum(1, keepdim=True)


def _covariance(earned: Tensor) -> Tensor:
    if earned.dim() != 2 or len(earned) < 2 or not earned.isfinite().all():
        raise InputError(f"earned is {list(earned.shape)}; expected [T, assets] of finite numbers, T at least 2")
    off = earned.double() - earned.double().mean(0)
    return off.T @ off / len(off)


def _shares(covariance: Tensor, wished: Tensor, rounds: int = 10_000) -> Tensor:
    """The least of w C w / 2 - m w over w >= 0, scaled to sum to one: among all shares it has the highest m w by its
    deviation. With m all ones that is the least variance. Coordinate by coordinate, each to its own least."""
    # Twins of one another share alike: a little is added to the variance of each.
    own = covariance + 1e-9 * covariance.diagonal().mean().clamp(min=1e-30) * torch.eye(len(covariance)).double()
    rows, wish, size = own.tolist(), wished.tolist(), range(len(own))
    shares = [0.0] * len(own)
    for _ in range(rounds):
        most = 0.0
        for i in size:
            slope = wish[i] - sum(a * b for a, b in zip(rows[i], shares, strict=True))
            new = max(0.0, shares[i] + slope / rows[i][i])
            most, shares[i] = max(most, abs(new - shares[i])), new
        if most <= 1e-12 * max(shares, default=0.0):
            break
    found = torch.tensor(shares, dtype=torch.float64)
    return found / found.sum() if found.sum() > 0 else found
