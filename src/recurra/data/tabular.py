"""Tables in files: CSV, lines of JSON, Parquet. Every message names the file, the line, and the column."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from recurra import options
from recurra.data.tables import Table
from recurra.errors import InputError, one_line

SEPARATORS = ",;\t|"


def read_table(path: str | Path) -> Table:
    """The table in a file, by its ending: .csv, .tsv or .txt (its first line names the columns), .jsonl or .ndjson (an
    object in each line), .parquet (read by pyarrow), .inter (columns with types, as recbole has them).

    Raises:
        InputError: the file cannot be read, is empty, or a line is not as the others.
    """
    path = options.path("path", path)
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"data {str(path)!r} ends in {path.suffix!r}; expected one of {', '.join(READERS)}")
    return reader(content_of(path), str(path))


def content_of(path: Path) -> bytes:
    """The bytes of a file of data. Raises InputError if it cannot be read, or is empty."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"data {str(path)!r} cannot be read: {one_line(error)}") from error
    if not content:
        raise InputError(f"data {str(path)!r} is empty; expected something to read")
    return content


def text_of(content: bytes, origin: str) -> str:
    """The text of a file. Raises InputError, naming the line, if it is not UTF-8."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        column = error.start - content.rfind(b"\n", 0, error.start)
        raise InputError(
            f"{origin}, line {line}, byte {column} is {content[error.start]:#04x}; expected text in UTF-8"
        ) from error


def parse_csv(content: bytes, origin: str) -> Table:
    """A table whose first line names the columns, separated by comma, semicolon, tab or bar."""
    text = text_of(content, origin)
    header = text.split("\n", 1)[0]
    separator = max(SEPARATORS, key=header.count)
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    names: list[str] = []
    rows, numbers, line = [], [], 1
    try:
        for row in lines:
            if not names:
                names = [name.strip() for name in row]
                _expect_names(names, origin)
            elif row:
                if len(row) != len(names):
                    raise InputError(
                        f"{origin}, line {line} has {len(row)} values; expected {len(names)}, as line 1 has"
                    )
                rows.append(row)
                numbers.append(line)
            line = lines.line_num + 1
    except csv.Error as error:
        raise InputError(f"{origin}, line {line}: {error}; expected values separated by {separator!r}") from error
    return _table(names, rows, origin, numbers)


def parse_json_lines(content: bytes, origin: str) -> Table:
    """A table of one JSON object in each line; a key that is missing is a missing value."""
    names: list[str] = []
    rows, numbers = [], []
    for number, line in enumerate(text_of(content, origin).split("\n"), 1):
        if not line.strip():
            continue
        row = parse_json(line, f"{origin}, line {number}")
        names = names or list(row)
        if more := set(row) - set(names):
            known = ", ".join(map(repr, names))
            raise InputError(f"{origin}, line {number} has the key {min(more)!r}; expected those of the first: {known}")
        rows.append([row.get(name) for name in names])
        numbers.append(number)
    _expect_names(names, origin)
    return _table(names, rows, origin, numbers)


def parse_json(line: str, where: str) -> dict[str, Any]:
    """The JSON object in a line. Raises InputError, naming the column, if it is none."""
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(f"{where}, column {error.colno}: {error.msg}; expected a JSON object") from error
    except RecursionError as error:
        raise InputError(f"{where} is nested too deeply; expected a JSON object of numbers and texts") from error
    if not isinstance(row, dict):
        raise InputError(f"{where} is {options.shown(row)}; expected a JSON object, such as {{'y': 1}}")
    return row


def parse_parquet(content: bytes, origin: str) -> Table:
    """A table in Parquet's format. Raises InputError if pyarrow, which reads it, is missing."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise InputError(f"{origin} is read by pyarrow, which is missing; install it: pip install pyarrow") from error
    try:
        return Table(parquet.read_table(pyarrow.BufferReader(content)), origin)
    except pyarrow.ArrowException as error:
        raise InputError(f"{origin} cannot be read: {one_line(error)}") from error


def parse_inter(content: bytes, origin: str) -> Table:
    """Atomic files of recbole: separated by tabs, the first line names columns and types, such as "user_id:token"."""
    table = parse_csv(content, origin)
    columns = {name.partition(":")[0]: table.columns[name] for name in table.columns}
    return Table(columns, origin, table.lines)


def _expect_names(names: list[str], origin: str) -> None:
    for name in names:
        if not name or names.count(name) > 1:
            what = f"the column {name!r} twice" if name else "a column without a name"
            raise InputError(f"{origin}, line 1 has {what}; expected a name for each column")


def _table(names: list[str], rows: list[list[Any]], origin: str, lines: list[int]) -> Table:
    if not rows:
        raise InputError(f"{origin} has no rows; expected at least one under the names of the columns")
    columns = {name: np.array(column, object) for name, column in zip(names, zip(*rows, strict=True), strict=True)}
    return Table(columns, origin, lines)


READERS: dict[str, Callable[[bytes, str], Table]] = {
    ".csv": parse_csv,
    ".tsv": parse_csv,
    ".txt": parse_csv,
    ".jsonl": parse_json_lines,
    ".ndjson": parse_json_lines,
    ".parquet": parse_parquet,
    ".inter": parse_inter,
}
"""By the ending of a file's name."""
