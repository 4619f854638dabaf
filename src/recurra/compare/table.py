"""What trials say together: one row for each model and each floor, and which to take."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, median, stdev
from typing import Any

Result = dict[str, Any]

STUDENT = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)
"""By the degrees of freedom from 1: how many standard errors the mean is off by at most in 95 of 100 cases."""


def summary(results: Sequence[Result]) -> list[Result]:
    """One row for each model, the best first, then the floors.

    Of several seeds the error is the mean and its interval that of the mean; of one seed, that of its report.
    """
    rows = []
    for pattern in dict.fromkeys(result["pattern"] for result in results):
        own = [result for result in results if result["pattern"] == pattern]
        errors = [result["error"] for result in own]
        paces = [result["microseconds"] for result in own if result["microseconds"] is not None]
        rows.append(
            {
                "model": pattern,
                "error": fmean(errors),
                "interval": own[0]["interval"] if len(own) == 1 else _off(errors),
                "seeds": len(own),
                "seconds": fmean(result["seconds"] for result in own),
                "parameters": own[0]["parameters"],
                "megabytes": max(result["megabytes"] for result in own),
                "microseconds": median(paces) if paces else None,
            }
        )
    rows.sort(key=lambda row: row["error"])
    floors = results[0]["floors"] if results else {}
    return rows + [{"model": name, "error": error, "interval": None} for name, error in floors.items()]


def _off(errors: Sequence[float]) -> float:
    free = min(len(errors) - 1, len(STUDENT))
    return STUDENT[free - 1] * stdev(errors) / math.sqrt(len(errors))


def choice(rows: Sequence[Result]) -> str:
    """Which model to take, in a sentence: of those whose error may be that of the best, the one that is cheapest to
    run; none, if a floor is as good."""
    models = [row for row in rows if "parameters" in row]
    floors = [row for row in rows if "parameters" not in row]
    best = models[0]
    lowest = min(floors, key=lambda row: row["error"], default=None)
    if lowest is not None and lowest["error"] <= best["error"]:
        return f"take {lowest['model']}: no model was better after this time; train for longer"
    close = [row for row in models if row["error"] <= best["error"] + (best["interval"] or 0)]
    taken = min(close, key=lambda row: (row["microseconds"] or math.inf, row["parameters"]))
    if taken is not best:
        return f"take {taken['model']}: as good as {best['model']} within its interval, and cheaper for a new row"
    near = ", and the cheapest that comes near" if len(close) > 1 else ""
    return f"take {best['model']}: the smallest error{near}"
