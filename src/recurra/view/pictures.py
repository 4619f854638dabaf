"""Pictures where people would rather look than read: each is drawn from plain data and written as a file."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recurra import options
from recurra.errors import InputError
from recurra.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANELS = 6
"""Series drawn at most: more are too small to see."""
BLUES = ("#deebf7", "#bdd7e7", "#9ecae1", "#6baed6")
"""Of bands, the widest first."""
ENDINGS = (".png", ".svg", ".pdf")


def write(figure: Figure, path: str | Path) -> None:
    """Write a figure as .png, .svg or .pdf.

    Raises:
        InputError: the file has another ending.
        OSError: it cannot be written.
    """
    path = options.path("picture", path)
    if path.suffix.lower() not in ENDINGS:
        raise InputError(f"picture is {str(path)!r}; expected a file that ends in {', '.join(ENDINGS)}")
    buffer = io.BytesIO()
    figure.savefig(buffer, format=path.suffix[1:].lower(), dpi=130)
    write_atomically(path, buffer.getvalue())


def _figure(rows: int = 1, height: float = 3.5) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, height * rows if rows == 1 else 2.2 * rows), layout="constrained")
    panels = figure.subplots(rows, 1, squeeze=False)[:, 0]
    for axes in panels:
        axes.grid(alpha=0.3)
    return figure, list(panels)


def forecasts(
    ahead: Mapping[str, Any], past: Mapping[str, Any] | None, target: str, time: str, id: str | None
) -> Figure:
    """A panel for each series: what came, what is forecast, and the bands between `target-lo-80` and `target-hi-80`.

    Args:
        ahead: the columns of a forecast.
        past: the columns of what came before, or None.
        id: the column that says which series a row is of, if there is one.
    """
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    of = np.asarray(ahead[id]) if id is not None else np.zeros(len(ahead[target]))
    ids = list(dict.fromkeys(of.tolist()))[:PANELS]
    figure, panels = _figure(len(ids))
    levels = sorted(
        (name.removeprefix(f"{target}-lo-") for name in ahead if name.startswith(f"{target}-lo-")), key=float
    )
    for name, axes in zip(ids, panels, strict=True):
        own = of == name
        when = np.asarray(ahead[time])[own]
        for place, level in enumerate(reversed(levels)):
            low, high = (np.asarray(ahead[f"{target}-{side}-{level}"])[own] for side in ("lo", "hi"))
            blue = BLUES[min(place, len(BLUES) - 1)]
            axes.fill_between(when, low, high, color=blue, linewidth=0, label=f"{level} %")
        axes.plot(when, np.asarray(ahead[target])[own], color="#08519c", label="forecast")
        if past is not None:
            before = np.asarray(past[id]) == name if id is not None else np.ones(len(past[target]), bool)
            last = np.flatnonzero(before)[-4 * int(own.sum()) :]
            axes.plot(np.asarray(past[time])[last], np.asarray(past[target])[last], color="black", label=target)
        axes.set_title(str(name) if id is not None else target, loc="left")
        if when.dtype.kind == "M":
            marks = AutoDateLocator()
            axes.xaxis.set_major_locator(marks)
            axes.xaxis.set_major_formatter(ConciseDateFormatter(marks))
    panels[0].legend(loc="upper left", fontsize="small")
    return figure


def errors_by_horizon(rows: Sequence[Mapping[str, float]], measure: str = "mae") -> Figure:
    """The error at each step of the horizon, of rows with `step` and the measure."""
    figure, (axes,) = _figure()
    axes.plot([row["step"] for row in rows], [row[measure] for row in rows], marker=".", color="#08519c")
    axes.set_xlabel("steps ahead")
    axes.set_ylabel(measure.upper())
    axes.set_ylim(bottom=0)
    return figure


def reliability(coverage: Mapping[str, float]) -> Figure:
    """How often the target fell into each band, against how often it was to: percentages to shares."""
    figure, (axes,) = _figure(height=4.5)
    asked = [float(level) for level in coverage]
    axes.plot([0, 100], [0, 100], color="grey", linestyle=":")
    axes.plot(asked, [100 * share for share in coverage.values()], marker="o", color="#08519c")
    axes.set_xlabel("asked for, %")
    axes.set_ylabel("found, %")
    return figure


def confusion(counts: Any, names: Sequence[str]) -> Figure:
    """How often each class (row) was taken for each (column), [classes, classes]; shares of its row by colour."""
    figure, (axes,) = _figure(height=5)
    table = np.asarray(counts)
    shares = table / np.maximum(1, table.sum(1, keepdims=True))
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(names)), names, rotation=90)
    axes.set_yticks(range(len(names)), names)
    axes.grid(visible=False)
    if len(names) <= 20:
        for row, column in np.argwhere(table > 0):
            ink = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, str(table[row, column]), ha="center", va="center", fontsize="small", color=ink)
    axes.set_xlabel("predicted")
    axes.set_ylabel("actual")
    return figure


def learning(rows: Sequence[Mapping[str, float]]) -> Figure:
    """The loss over training, of rows with `step` and `loss`, and its running mean."""
    figure, (axes,) = _figure()
    steps, losses = ([row[name] for row in rows] for name in ("step", "loss"))
    mean: list[float] = []
    for value in losses:
        mean.append(0.95 * mean[-1] + 0.05 * value if mean else value)
    axes.plot(steps, losses, color="#9ecae1", linewidth=0.8, label="every update")
    axes.plot(steps, mean, color="#08519c", linewidth=2, label="smoothed")
    axes.set_xlabel("update")
    axes.set_ylabel("loss")
    axes.legend()
    return figure


def trade_off(rows: Sequence[Mapping[str, Any]], measure: str) -> Figure:
    """Error against the cost of a new row, with intervals, and the floors as lines: rows of `compare`."""
    figure, (axes,) = _figure(height=4.5)
    for row in rows:
        if row.get("microseconds"):
            axes.errorbar(row["microseconds"], row["error"], yerr=row["interval"] or 0, fmt="o", capsize=3)
            place = (row["microseconds"], row["error"])
            axes.annotate(row["model"], place, xytext=(6, 4), textcoords="offset points")
        elif "parameters" not in row:
            axes.axhline(row["error"], linestyle=":", color="grey")
            axes.annotate(row["model"], (1, row["error"]), xycoords=("axes fraction", "data"), ha="right", va="bottom")
    axes.set_xlabel("microseconds for a new row")
    axes.set_ylabel(measure)
    return figure
