"""`recurra predict`: what a fitted model says of what comes next, or of new data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from recurra.cli import own, runs
from recurra.errors import InputError

Option = typer.Option


def predict(
    run: Annotated[Path, typer.Argument(help="The run folder.")],
    data: Annotated[
        Path | None, typer.Argument(help="What to predict from; for forecasts, by default what was read.")
    ] = None,
    known: Annotated[Path | None, Option(help="Columns known ahead, at the times of the horizon.")] = None,
    level: Annotated[str | None, Option(help="Percentages to give bounds for, such as 80,95.")] = None,
    quantiles: Annotated[str | None, Option(help="Probabilities to give the quantiles of, such as 0.1,0.9.")] = None,
    samples: Annotated[int | None, Option(help="Draws from the distribution.")] = None,
    seed: Annotated[int | None, Option(help="Of the draws.")] = None,
    picture: Annotated[Path | None, Option(help="Draw forecasts with their bands: .png, .svg or .pdf.")] = None,
    out: Annotated[Path | None, Option(help="A file to write: .csv, .jsonl or .parquet.")] = None,
    follow: Annotated[bool, Option("--follow", help="Read rows from standard input, answer each in a line.")] = False,
    imports: own.Imports = None,
    json: Annotated[bool, Option("--json", help="Print lines of JSON instead of CSV.")] = False,
) -> None:
    """Predict with a model that `recurra fit` has made.

    Examples:

      recurra predict runs/sales --level 80,95

      tail -f rows.csv | recurra predict runs/sales --follow
    """
    from recurra.cli.answers import LINES, answer
    from recurra.data.tabular import read_table

    own.take(imports)
    estimator = runs.open_run(run)
    asked: dict[str, Any] = {
        "known": None if known is None else read_table(known),
        "level": runs.numbers("level", level) or None,
        "quantiles": runs.numbers("quantiles", quantiles) or None,
        "samples": samples,
        "seed": seed,
    }
    asked = {name: value for name, value in asked.items() if value is not None}
    if not follow:
        given = runs.given(run, estimator, data)
        found = answer(estimator, given, asked)
        if picture is not None:
            _draw(estimator, found, given, picture)
        runs.put(found, out, json)
        return
    if data is not None or out is not None or picture is not None:
        raise InputError("follow reads standard input and writes lines; expected no data, no out and no picture")
    if estimator.task in LINES:
        runs.follow_lines(lambda line: LINES[estimator.task](estimator, line))
    elif hasattr(estimator, "update"):
        runs.follow(lambda row: _after(estimator, row, asked))
    else:
        raise InputError(f"follow needs a model that goes on, or one of lines of text; this is one to {estimator.task}")


def _after(estimator: Any, row: Any, asked: dict[str, Any]) -> Any:
    """What is forecast after one more row; of other models, what they say of the row."""
    from recurra.cli.answers import answer, take_in

    told = take_in(estimator, row)
    return answer(estimator, None, asked) if estimator.task == "forecast" else told


def _draw(estimator: Any, found: Any, given: Any, path: Path) -> None:
    """Draw forecasts, behind what they were made from if that was given."""
    from recurra.data.times import dates
    from recurra.view import pictures

    if estimator.task != "forecast":
        raise InputError(f"picture is {str(path)!r}; only forecasts are drawn, this is a model to {estimator.task}")
    target = estimator.target if isinstance(estimator.target, str) else estimator.target[0]
    id = next((name for name in (estimator.id, "unique_id") if name in found), None)
    time = next(name for name in found if name not in (id, target))
    past = None
    if given is not None and time in given:
        past = {target: given.numbers(target), time: dates(given.column(time), time, given.where)}
        past |= {id: given.names(id)} if id is not None else {}
    pictures.write(pictures.forecasts(found, past, target, time, id), path)
