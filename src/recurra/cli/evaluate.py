"""`recurra evaluate`: how well a trained model predicts what it has not seen."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from recurra.cli import asked, own, runs, show
from recurra.errors import InputError

Option = typer.Option


def evaluate(
    run: Annotated[Path, typer.Argument(help="The folder of a finished run.")] = Path("runs/default"),
    data: Annotated[
        Path | None, Option(help="What to predict. Of texts, without it: the held-out tenth of the built-in text.")
    ] = None,
    windows: Annotated[int | None, Option(help="Of forecasts: horizons at the end of each series to score.")] = None,
    imports: own.Imports = None,
    season: asked.Season = None,
    labels: asked.Labels = None,
    pictures: Annotated[Path | None, Option(help="A folder for pictures of the errors of a task.")] = None,
    engine: Annotated[str, Option(help="Engine that runs the steps; auto picks one.")] = "auto",
    json: Annotated[bool, Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Measure how well a model predicts what it has not seen: a text, or data of its task.

    Examples:

      recurra evaluate runs/default --data other.txt

      recurra evaluate runs/sales --data sales.csv --windows 4
    """
    own.take(imports)
    if runs.task_of(run) is not None:
        how = {"windows": windows, "season": season, "labels": labels}
        _score(run, data, {name: value for name, value in how.items() if value is not None}, pictures, json)
        return
    from recurra.data.text import default_text, read, split
    from recurra.models.files import load
    from recurra.training.evaluate import bits_per_byte

    text = split(default_text())[1] if data is None else read(data)
    model = load(run)
    with show.progress("evaluating", 1) as update:
        bits = bits_per_byte(model, text, engine, progress=lambda done, total: update(done / total))
    if json:
        show.as_json({"bits_per_byte": bits, "bytes": len(text)})
    else:
        print(f"{bits:.4f} bits per byte on {len(text):,} bytes")


def _score(run: Path, data: Path | None, how: dict[str, Any], pictures: Path | None, json: bool) -> None:
    """Print what an estimator's `evaluate` finds."""
    estimator = runs.open_run(run)
    if data is None:
        raise InputError(f"data is missing; expected a file to score {str(run)!r} on, such as --data new.csv")
    found = runs.given(run, estimator, data, targets=True)
    own = {"forecast": {"windows", "season"}, "detect": {"labels"}}.get(estimator.task, set())
    if set(how) - own or (estimator.task == "detect" and not how):
        known = ", ".join(f"--{name}" for name in sorted(own)) or "no option of its own"
        raise InputError(f"a model to {estimator.task} is scored with {known}; came {', '.join(how) or 'none'}")
    if "labels" in how:
        from recurra.compare.sources import labels_of

        how["labels"] = labels_of(found, how["labels"], estimator.id)
    report = estimator.evaluate(found, **how)
    if pictures is not None:
        _draw(report, pictures)
    if json:
        show.as_json(report)
    else:
        print(report)


def _draw(report: dict[str, Any], folder: Path) -> None:
    """What a report has of errors by horizon, of coverage, and of classes taken for others."""
    from recurra.view import pictures

    if "by_horizon" in report:
        pictures.write(pictures.errors_by_horizon(report["by_horizon"]), folder / "horizon.png")
    if "coverage" in report:
        pictures.write(pictures.reliability(report["coverage"]), folder / "coverage.png")
    if "confusion" in report:
        pictures.write(pictures.confusion(report["confusion"], report["classes"]), folder / "confusion.png")
