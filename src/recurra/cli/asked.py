"""Options that `fit` and `compare` share: which columns are what, and how to train."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from recurra.cli.runs import listed

COLUMNS, TRAINING = "Columns", "Training"
_names = ("known", "static", "past", "categories")


def _column(help: str) -> Any:
    return typer.Option(help=help, rich_help_panel=COLUMNS)


def _training(help: str) -> Any:
    return typer.Option(help=help, rich_help_panel=TRAINING)


Task = Annotated[str, typer.Argument(help="What to learn: forecast, classify, tag, ...")]
Data = Annotated[str, typer.Argument(help="A file, or the name of a data set (recurra data lists them).")]
Horizon = Annotated[int | None, typer.Option(help="Steps to forecast.")]
Windows = Annotated[int | None, typer.Option(help="Horizons to hold out at the end of each series, to be scored on.")]
Test = Annotated[Path | None, typer.Option(help="A file to be scored on.")]
Season = Annotated[int | None, typer.Option(help="Of forecasts: steps after which a series resembles itself.")]
Labels = Annotated[str | None, typer.Option(help="Of anomalies: the column that is 1 where there is one.")]
Target = Annotated[str | None, _column("What to predict: a column, or several, a,b.")]
Id = Annotated[str | None, _column("Which sequence a row is of.")]
Time = Annotated[str | None, _column("When a row is.")]
Known = Annotated[str | None, _column("Columns known ahead, a,b.")]
Static = Annotated[str | None, _column("Columns that are the same in all rows of a series, a,b.")]
Past = Annotated[str | None, _column("Other columns to read; by default all.")]
Categories = Annotated[str | None, _column("Columns of numbers that are names, a,b.")]
Width = Annotated[int | None, _training("Channels between blocks.")]
Steps = Annotated[int | None, _training("Updates.")]
Set = Annotated[list[str] | None, _training("Any other setting, as name=value.")]


def settings_of(given: dict[str, Any]) -> dict[str, Any]:
    """Those that were given, columns as lists."""
    found: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    found |= {name: listed(found[name]) for name in _names if name in found}
    if "," in found.get("target", ""):
        found["target"] = listed(found["target"])
    return found
