"""`recurra fit`: from data to a run folder of any task."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from recurra.cli import asked, own, runs, show

Option = typer.Option


def fit(
    task: asked.Task,
    data: asked.Data,
    out: Annotated[Path | None, Option(help="The run folder to fill; by default runs/TASK.")] = None,
    pattern: Annotated[str | None, Option(help="Recurrences from bottom to top, such as mamba*3+lstm.")] = None,
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
    steps: asked.Steps = None,
    seconds: Annotated[
        float | None, Option(help="Time to train, instead of steps.", rich_help_panel="Training")
    ] = None,
    seed: Annotated[int | None, Option(help="Of all that is random.", rich_help_panel="Training")] = None,
    resume: Annotated[
        bool, Option("--resume", help="Go on from the last checkpoint; settings not given are those of the run.")
    ] = False,
    set: asked.Set = None,
    imports: own.Imports = None,
    json: Annotated[bool, Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Learn a task from a table or a data set, and score it on what was held out.

    Examples:

      recurra fit forecast us_births/D --seconds 60

      recurra fit forecast sales.csv --horizon 14 --windows 4 --known holiday,price --out runs/sales
    """
    from recurra.compare.sources import Scoring, find, settings
    from recurra.memory import keep_freed_memory
    from recurra.training.course import Course
    from recurra.view import pictures

    keep_freed_memory()
    own.take(imports, pattern)
    given = {
        "pattern": pattern, "horizon": horizon, "target": target, "id": id, "time": time, "known": known,
        "static": static, "past": past, "categories": categories, "width": width, "steps": steps, "seconds": seconds,
        "seed": seed,
    }  # fmt: skip
    scoring = Scoring(None if test is None else str(test), windows, season, labels)
    folder = Path("runs") / task if out is None else out
    chosen = settings(asked.settings_of(given), set or [], task)
    found = find(task, data, runs.begun(folder, task) | chosen if resume else chosen, scoring)
    _learn(found, folder, resume)
    found.stand()
    found.estimator.save(folder)
    runs.remember(folder, found)
    pictures.write(pictures.learning(Course(folder).rows()), folder / "loss.png")
    report = found.score()
    if json:
        show.as_json({"run": str(folder), "result": report})
        return
    if report is not None:
        print(report)
    print(f"Everything is in {folder}/")


def _learn(found: Any, folder: Path, resume: bool) -> None:
    """Fit the estimator, say how far it is, and log each update in the folder."""
    from recurra.training.course import Course

    course, begun = Course(folder), False
    with show.progress("training", 1) as update:

        def progress(now: dict[str, float]) -> None:
            nonlocal begun
            if not begun:
                course.drop_after(int(now["step"]) - 1)
                begun = True
            update(now["done"], f"loss {now['loss']:.4f}")
            course.log(now, durable=False)

        try:
            found.estimator.fit(found.learn, progress=progress, folder=folder, resume=resume)
        except KeyboardInterrupt:
            print("recurra: interrupted; the same command with --resume goes on from here", file=sys.stderr)
            raise typer.Exit(130) from None
