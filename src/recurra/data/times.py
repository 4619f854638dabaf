"""Points in time as numbers, and the steps between them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recurra.errors import InputError
from recurra.options import shown

LATEST = 9e12
"""Seconds from 1970 that a point in time, in microseconds, is away at most."""
Where = Callable[[int], str]
"""The words for one row of a table, such as "births.csv, line 17"."""


def seconds(values: NDArray[Any], name: str, where: Where) -> tuple[NDArray[np.float64], bool]:
    """(values [N], whether they are dates): dates and their texts as seconds since 1970, numbers as they are.

    Raises InputError, naming the row, for what is neither, is missing or infinite, and for dates among numbers.
    """
    plain = [] if values.dtype.kind == "M" else values.tolist()
    if values.dtype.kind in "iufb" or (plain and all(isinstance(value, str) and _is_number(value) for value in plain)):
        found, dated = values.astype(np.float64), False
    else:
        found, dated = _dates(values, name, where), True
    wrong = np.flatnonzero(~np.isfinite(found))
    if len(wrong):
        came = shown(values.tolist()[wrong[0]])
        raise InputError(f"{where(int(wrong[0]))}, column {name!r} is {came}; expected a time in every row")
    return found, dated


def second(value: Any, dated: bool) -> float | None:
    """One value as `seconds` has it, where times are known to be dates or not; None if it is no such time."""
    try:
        found = float(_date(value).astype(np.int64)) / 1e6 if dated else float(value)
    except (ValueError, TypeError, OverflowError):
        return None
    return found if abs(found) < LATEST else None


def dates(values: NDArray[Any], name: str, where: Where) -> NDArray[Any]:
    """Times as what can be drawn: dates as dates, numbers as they are. Raises InputError as `seconds`."""
    found, dated = seconds(values, name, where)
    return np.round(found * 1e6).astype(np.int64).astype("datetime64[us]") if dated else found


def _dates(values: NDArray[Any], name: str, where: Where) -> NDArray[np.float64]:
    if values.dtype.kind != "M":
        try:
            values = np.array([_date(value) for value in values.tolist()], "datetime64[us]")
        except (ValueError, TypeError, OverflowError):
            row = next(n for n, value in enumerate(values.tolist()) if not _is_date(value))
            raise InputError(
                f"{where(row)}, column {name!r} is {shown(values[row])}; expected a time such as 2026-11-25 or "
                "2026-11-25T18:00"
            ) from None
    passed = values.astype("datetime64[us]").astype(np.int64)
    return np.where(np.isnat(values), np.nan, passed / 1e6)


def _date(value: Any) -> np.datetime64:
    """Of a text in ISO 8601, a date of Python or of pandas, with or without a time zone."""
    if isinstance(value, (int, float)) and value == value:
        raise TypeError("a number is no date")
    if isinstance(value, str):
        return np.datetime64(value.strip().removesuffix("Z"), "us")
    if getattr(value, "tzinfo", None) is not None:
        return np.datetime64(round(value.timestamp() * 1e6), "us")
    return np.datetime64(value, "us")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _is_date(value: Any) -> bool:
    try:
        _date(value)
    except (ValueError, TypeError, OverflowError):
        return False
    return True


def text(value: float, dated: bool) -> str:
    """A time for a person: 2026-11-25, with hours where it has some; a number as a number."""
    if not dated:
        return f"{value:g}"
    shown_time = str(np.datetime64(round(value * 1e6), "us").astype("datetime64[s]"))
    return shown_time.removesuffix("T00:00:00")


@dataclass(frozen=True)
class Frequency:
    """The time between two steps: some months, whose lengths differ, or some seconds (or units, where times are
    numbers)."""

    months: int
    seconds: float

    def after(self, time: float, steps: int) -> float:
        """The time so many steps later (earlier, if negative)."""
        if not self.months:
            return time + steps * self.seconds
        day = np.datetime64(round(time * 1e6), "us")
        month = day.astype("datetime64[M]")
        within = day - month.astype("datetime64[us]")
        later = month + np.timedelta64(self.months * steps, "M")
        # A series of the last days of months keeps to the last days.
        longest = (later + np.timedelta64(1, "M")).astype("datetime64[us]") - later.astype("datetime64[us]")
        last_day = (month + np.timedelta64(1, "M")).astype("datetime64[D]") - day.astype("datetime64[D]") == 1
        within = longest - np.timedelta64(1, "D") + within % np.timedelta64(1, "D") if last_day else within
        return float((later.astype("datetime64[us]") + within).astype(np.int64) / 1e6)

    def reaches(self, first: float, last: float, steps: int) -> bool:
        """Whether a time is so many steps after another, but for rounding; of months, in the same month."""
        off = abs(self.after(first, steps) - last)
        return off < (31 * 86400 if self.months else 1e-3 * self.seconds)

    def between(self, first: float, last: float) -> int:
        """Steps from one time to another, rounded."""
        if not self.months:
            return round((last - first) / self.seconds)
        month = [np.datetime64(round(time), "s").astype("datetime64[M]") for time in (first, last)]
        return round(int((month[1] - month[0]).astype(int)) / self.months)

    def fits(self, times: NDArray[np.float64]) -> bool:
        """Whether rising times are whole numbers of steps apart, some of them a single one."""
        pairs = list(pairwise(times))
        counts = [self.between(a, b) for a, b in pairs]
        exact = all(abs(self.after(a, n) - b) < 1e-6 * (b - a) for (a, b), n in zip(pairs, counts, strict=True))
        return bool(counts) and min(counts) == 1 and exact


def common(found: Sequence[Frequency]) -> Frequency:
    """What the frequencies of several series, each found by itself, may all be: those of months rather than of days,
    since of a few months some are of equal lengths."""
    return next((each for each in found if each.months), found[0])


def frequency(times: NDArray[np.float64], dated: bool) -> Frequency | None:
    """The time between steps of a rising series, gaps of whole steps allowed; None if there is none such."""
    gaps = np.diff(times)
    if not len(gaps):
        return None
    step = float(gaps.min())
    if np.allclose(gaps / step, np.round(gaps / step), rtol=0, atol=1e-6):
        return Frequency(0, step)
    if not dated:
        return None
    months = np.diff(times.astype("datetime64[s]").astype("datetime64[M]").astype(np.int64))
    if months.min() < 1:
        return None
    found = Frequency(int(np.gcd.reduce(months)), 0.0)
    same = all(
        abs(found.after(a, int(n) // found.months) - b) < 1
        for a, b, n in zip(times[:-1], times[1:], months, strict=True)
    )
    return found if same else None
