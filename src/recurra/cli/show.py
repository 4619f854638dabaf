"""What the verbs print: tables, progress bars that keep quiet when nobody watches, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table


def as_json(value: Any) -> None:
    """Print for a program."""
    print(json.dumps(value, indent=2))


def table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """Print for a person."""
    shown = Table(title=title, title_justify="left")
    for column in columns:
        shown.add_column(column, no_wrap=column not in ("paper", "about", "licence"))
    for row in rows:
        shown.add_row(*row)
    console = Console()
    console = console if console.is_terminal else Console(width=160)
    console.print(shown)


@contextmanager
def progress(label: str, total: int) -> Iterator[Any]:
    """A bar on standard error with time left; gives `update(completed, note)`. Silent when not on a terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:  # a disabled bar is not silent in every version of rich
        yield lambda completed, note="": None
        return
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
        console=console,
    )
    with bar:
        task = bar.add_task(label, total=total, note="")
        yield lambda completed, note="": bar.update(task, completed=completed, note=note)
