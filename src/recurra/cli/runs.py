"""Run folders of estimators: which task each is of, and the rows that the verbs read and write."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from recurra.errors import InputError, RecurraError, one_line

DATA = "data.json"
"""The file of a run that says what its data were."""


def task_of(run: Path) -> str | None:
    """The task of a run folder, None if it is a language model's.

    Raises InputError if there is no such folder.
    """
    from recurra.files import read_json

    if not run.is_dir():
        raise InputError(f"run {str(run)!r} is no folder; expected what `recurra fit` or `recurra train` has made")
    try:
        task = read_json(run / "config.json").get("task")
    except (OSError, ValueError):
        return None
    return task if isinstance(task, str) else None


def open_run(run: Path) -> Any:
    """The estimator in a run folder. Raises InputError if it is none, or a language model."""
    task = task_of(run)
    if task is None:
        raise InputError(f"run {str(run)!r} holds no model of a task; expected one that `recurra fit` has made")
    from recurra.compare.sources import estimator_of

    return estimator_of(task).load(run)


def begun(run: Path, task: str) -> dict[str, Any]:
    """The settings of the fit that a folder keeps; none if it keeps no fit of this task, which `fit` then says."""
    from recurra.compare.sources import estimator_of
    from recurra.files import read_json
    from recurra.training.keeping import ABOUT

    names = estimator_of(task)().get_params()
    try:
        kept = read_json(run / ABOUT)
        return {name: kept[name] for name in names} if kept["task"] == task else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def remember(run: Path, source: Any) -> None:
    """Keep with a run what its data were, so that other files are read alike."""
    from recurra.compare.sources import fields_of
    from recurra.files import write_atomically

    found = fields_of(source.learn)
    sides = found if isinstance(found, tuple) else (found,)
    told = {"columns": source.columns, "fields": [[field.as_dict() for field in side] for side in sides]}
    write_atomically(run / DATA, json.dumps(told) + "\n")


def given(run: Path, estimator: Any, data: Path | None, targets: bool = False) -> Any:
    """What an estimator takes, in a file; None if there is no file.

    Args:
        targets: whether the answers are to be in it too.

    Raises InputError if the file is not as those that the run was fitted on.
    """
    from recurra.compare.reading import READERS, sources, words
    from recurra.compare.sources import GOING_ON
    from recurra.data.sequences import Field
    from recurra.data.tabular import read_table
    from recurra.files import read_json

    if data is None:
        return None
    if estimator.task in GOING_ON:
        return read_table(data)
    try:
        told = read_json(run / DATA)
        sides = [[Field.from_dict(field) for field in side] for side in told["fields"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{str(run / DATA)!r} does not say what the data were: {one_line(error)}") from error
    if estimator.task == "tag" and not targets:
        return words(data)
    if estimator.task == "translate" and not targets:
        return sources(data, sides[0])
    if not targets:
        sides = [[field for field in side if field.role != "target"] for side in sides]
    return READERS[estimator.task](data, like=sides[0] if len(sides) == 1 else tuple(sides), **told["columns"])


def put(columns: Any, out: Path | None, as_json: bool) -> None:
    """Write a table to a file, or print it: as CSV, or as lines of JSON."""
    from recurra.data import writing

    if out is not None:
        writing.write_table(out, columns)
    else:
        sys.stdout.write(writing.as_json_lines(columns) if as_json else writing.as_csv(columns))


def follow(answer: Callable[[Any], Any]) -> None:
    """Answer each row of standard input as it comes by a line of JSON. Rows are objects of JSON, or CSV under a line of
    names. A column of the answer that has several rows is a list.

    A row that is wrong is answered by an error, which changes nothing; the next one is read.
    """
    from recurra.data.writing import plain

    header: list[str] = []
    first = True
    for number, line in enumerate(sys.stdin, 1):
        if not line.strip():
            continue
        if first:
            first = False
            if not line.lstrip().startswith("{"):
                header = next(csv.reader([line]))
                continue
        try:
            found = list(plain(answer(_row(line, header, number))))
            told = found[0] if len(found) == 1 else {name: [row[name] for row in found] for name in found[0]}
        except RecurraError as error:
            print(f"recurra: {error}", file=sys.stderr)
            told = {"line": number, "error": one_line(error)}
        print(json.dumps(told, ensure_ascii=False), flush=True)


def follow_lines(answer: Callable[[str], dict[str, Any]]) -> None:
    """Answer each line of text of standard input as it comes by a line of JSON; one that is wrong by an error."""
    for number, line in enumerate(sys.stdin, 1):
        if not line.strip():
            continue
        try:
            told = answer(line.strip())
        except RecurraError as error:
            print(f"recurra: standard input, line {number}: {error}", file=sys.stderr)
            told = {"line": number, "error": one_line(error)}
        print(json.dumps(told, ensure_ascii=False), flush=True)


def _row(line: str, header: list[str], number: int) -> Any:
    """One row as a table."""
    from recurra.data.tables import Table
    from recurra.data.tabular import parse_json

    where = f"standard input, line {number}"
    if not header:
        row = parse_json(line, where)
        return Table({name: [value] for name, value in row.items()}, "standard input", [number])
    values = next(csv.reader([line]))
    if len(values) != len(header):
        raise InputError(f"{where} has {len(values)} values; expected {len(header)}, as the names in line 1")
    return Table({name: [value] for name, value in zip(header, values, strict=True)}, "standard input", [number])


def listed(text: str | None) -> list[str] | None:
    """Names separated by commas."""
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def numbers(name: str, text: str | None) -> list[float]:
    """Numbers separated by commas. Raises InputError if one is none."""
    found: list[float] = []
    for part in listed(text) or []:
        try:
            found.append(float(part))
        except ValueError as error:
            raise InputError(f"{name} is {text!r}; expected numbers separated by commas, such as 80,95") from error
    return found
