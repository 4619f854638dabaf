"""Tables written down: as CSV, lines of JSON or Parquet."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from recurra import options
from recurra.errors import InputError
from recurra.files import write_atomically

Columns = Mapping[str, Any]
"""Arrays or lists of one length by their names."""


def plain(columns: Columns) -> Iterator[dict[str, Any]]:
    """Rows of Python's own values: dates as texts, what is missing as None."""
    lists = [_plain(np.asarray(column)) for column in columns.values()]
    for row in zip(*lists, strict=True):
        yield dict(zip(columns, row, strict=True))


def _plain(column: np.ndarray[Any, Any]) -> list[Any]:
    if column.dtype.kind != "M":
        return [None if isinstance(v, float) and math.isnan(v) else v for v in column.tolist()]
    days = column.astype("datetime64[D]")
    whole = bool((days == column)[~np.isnat(column)].all())
    texts = np.datetime_as_string(days if whole else column.astype("datetime64[s]")).tolist()
    return [None if text == "NaT" else text for text in texts]


def as_csv(columns: Columns, header: bool = True) -> str:
    """Lines of values separated by commas, under the names of the columns."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    if header:
        writer.writerow(columns)
    writer.writerows(["" if v is None else v for v in row.values()] for row in plain(columns))
    return out.getvalue()


def as_json_lines(columns: Columns) -> str:
    """A JSON object in each line."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in plain(columns))


def write_table(path: str | Path, columns: Columns) -> None:
    """Write a table in the format that the ending of the file names: .csv, .jsonl or .parquet.

    Raises:
        InputError: it has another ending, or pyarrow, which writes Parquet, is missing.
        OSError: it cannot be written; what is there is then as it was.
    """
    path = options.path("path", path)
    ending = path.suffix.lower()
    if ending == ".csv":
        write_atomically(path, as_csv(columns))
    elif ending in (".jsonl", ".ndjson"):
        write_atomically(path, as_json_lines(columns))
    elif ending == ".parquet":
        write_atomically(path, _as_parquet(columns, str(path)))
    else:
        raise InputError(f"out is {str(path)!r}; expected a file that ends in .csv, .jsonl or .parquet")


def _as_parquet(columns: Columns, name: str) -> bytes:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise InputError(f"{name} is written by pyarrow, which is missing; install it: pip install pyarrow") from error
    sink = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.table({name: np.asarray(column) for name, column in columns.items()}), sink)
    return sink.getvalue().to_pybytes()
