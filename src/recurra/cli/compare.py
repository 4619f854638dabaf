"""`recurra compare`: which recurrence does best on somebody's data."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from recurra.cli import asked, own, show

Option = typer.Option
MODELS = "gru*2,mamba*2,slstm*2,min-gru*2,gated-delta-net*2"


def compare(
    task: asked.Task,
    data: asked.Data,
    models: Annotated[str, Option(help="Patterns separated by commas.")] = MODELS,
    seconds: Annotated[float, Option(help="Time to train each, once for each seed.")] = 60,
    seeds: Annotated[int, Option(help="How often to train each.")] = 1,
    out: Annotated[Path | None, Option(help="The folder for results; by default runs/compare-TASK.")] = None,
    horizon: asked.Horizon = None,
    windows: asked.Windows = None,
    test: asked.Test = None,
    season: asked.Season = None,
    labels: asked.Labels = None,
    target: asked.Target = None,
    id: asked.Id = None,
    time: asked.Time = None,
    known: asked.Known = None,
    static: asked.Static = None,
    past: asked.Past = None,
    categories: asked.Categories = None,
    width: asked.Width = None,
    set: asked.Set = None,
    imports: own.Imports = None,
    json: Annotated[bool, Option("--json", help="Print the table as JSON.")] = False,
) -> None:
    """Train several models for the same time, score them on the same windows, and say which to take.

    What is finished is kept: the same command goes on where it was interrupted.

    Example:

      recurra compare forecast us_births/D --models "gru*2,mamba*2" --seconds 60
    """
    from recurra import options
    from recurra.compare import table
    from recurra.compare.series import finished, plan
    from recurra.compare.sources import Scoring, settings
    from recurra.compare.trial import MEASURES, Trial
    from recurra.view import pictures

    own.take(imports, models)
    options.count("seeds", seeds)
    options.number("seconds", seconds, 1e-3)
    given = {
        "horizon": horizon, "target": target, "id": id, "time": time, "known": known, "static": static, "past": past,
        "categories": categories, "width": width,
    }  # fmt: skip
    about = settings(asked.settings_of(given), set or [], task)
    scoring = Scoring(None if test is None else str(test), windows, season, labels)
    trials = plan(Trial.of(task, data, seconds, about, scoring, imports), asked.listed(models) or [], seeds)
    folder = Path("runs") / f"compare-{task}" if out is None else out
    results: list[dict[str, Any]] = []
    with show.progress("comparing", len(trials)) as update:
        try:
            for number, result in enumerate(finished(trials, folder / "results.jsonl"), 1):
                results.append(result)
                update(number, result["pattern"])
        except KeyboardInterrupt:
            print("recurra: interrupted; the same command goes on from here", file=sys.stderr)
            raise typer.Exit(130) from None
    rows = table.summary(results)
    pictures.write(pictures.trade_off(rows, MEASURES[task].name), folder / "compare.png")
    if json:
        show.as_json({"rows": rows, "choice": table.choice(rows), "picture": str(folder / "compare.png")})
        return
    _print(rows, f"{task} {data}, {seconds:g} s each", MEASURES[task].name)
    choice = table.choice(rows)
    print(f"{choice[0].upper()}{choice[1:]}. A picture is in {folder}/compare.png")


def _print(rows: list[dict[str, Any]], title: str, error: str) -> None:
    columns = ["model", error, "+-", "seconds", "parameters", "MB", "us per row"]
    shown = []
    for row in rows:
        interval = "" if row["interval"] is None else f"{row['interval']:.4f}"
        cells = [row["model"], f"{row['error']:.4f}", interval]
        if "parameters" in row:
            pace = "" if row["microseconds"] is None else f"{row['microseconds']:.0f}"
            cells += [f"{row['seconds']:.0f}", f"{row['parameters']:,}", f"{row['megabytes']:.0f}", pace]
        shown.append(cells + [""] * (len(columns) - len(cells)))
    show.table(title, columns, shown)
