"""`recurra update`: new rows into a fitted model, at the cost of one step each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from recurra.cli import own, runs
from recurra.errors import InputError

Option = typer.Option


def update(
    run: Annotated[Path, typer.Argument(help="The run folder; it stands behind the new rows afterwards.")],
    data: Annotated[Path | None, typer.Argument(help="New rows.")] = None,
    out: Annotated[Path | None, Option(help="A file to write: .csv, .jsonl or .parquet.")] = None,
    follow: Annotated[bool, Option("--follow", help="Read rows from standard input, answer each in a line.")] = False,
    learn: Annotated[bool, Option("--learn", help="Also take one step of learning on them.")] = False,
    imports: own.Imports = None,
    json: Annotated[bool, Option("--json", help="Print lines of JSON instead of CSV.")] = False,
) -> None:
    """Take in new observations, and say what had been expected of them and how surprising they are.

    Examples:

      recurra update runs/sales today.csv

      tail -f rows.jsonl | recurra update runs/sales --follow
    """
    if follow == (data is not None):
        raise InputError("expected either a file of new rows, or --follow to read them from standard input")
    from recurra.cli.answers import take_in

    own.take(imports)
    estimator = runs.open_run(run)
    if not hasattr(estimator, "update"):
        raise InputError(f"run {str(run)!r} is a model to {estimator.task}; expected one that goes on, to forecast")
    if not follow:
        runs.put(take_in(estimator, runs.given(run, estimator, data), learn), out, json)
        estimator.save(run)
        return
    try:
        runs.follow(lambda row: take_in(estimator, row, learn))
    finally:
        estimator.save(run)
