"""Columns of a data frame of any library, or of a file, looked at once: what is there, of which kind, in which line."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recurra.errors import InputError, one_line
from recurra.options import shown

NOTHING = {"", "na", "n/a", "nan", "null", "none", "?"}
"""Texts that mean a missing value, in small letters."""


class Table:
    """Columns of equal length, and the words for one of their rows.

    Args:
        columns: a data frame of pandas or polars, a table of pyarrow, or a mapping from names to arrays or lists; none
            of these libraries is imported.
        origin: the file it is from; rows are then called by its lines.
        lines: the line of each row; without it the first row is row 0.

    Raises:
        InputError: it has no columns, or they are of different lengths.
    """

    def __init__(self, columns: Any, origin: str = "", lines: Iterable[int] | None = None) -> None:
        self.origin = origin
        self.lines = None if lines is None else list(lines)
        self.columns = {str(name): _array(str(name), column) for name, column in _pairs(columns)}
        lengths = {name: len(column) for name, column in self.columns.items()}
        if len(set(lengths.values())) != 1:
            came = ", ".join(f"{length} in {name!r}" for name, length in list(lengths.items())[:6]) or "no columns"
            raise InputError(f"{origin or 'frame'} has {came}; expected columns of one length")

    @classmethod
    def of(cls, frame: Any) -> Table:
        """A table as it is, or of a data frame."""
        return frame if isinstance(frame, Table) else cls(frame)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __contains__(self, name: object) -> bool:
        return name in self.columns

    def without(self, name: str | None) -> Table:
        """The same, but for a column."""
        kept = {each: column for each, column in self.columns.items() if each != name}
        return self if len(kept) == len(self.columns) else Table(kept, self.origin, self.lines)

    def where(self, row: int) -> str:
        """The words for a row."""
        place = f"row {row}" if self.lines is None else f"line {self.lines[row]}"
        return f"{self.origin}, {place}" if self.origin else place

    def column(self, name: str) -> NDArray[Any]:
        """Raises InputError, with the columns there are, if it is missing."""
        if name not in self.columns:
            there = ", ".join(map(repr, self.columns))
            whose = self.where(0) if len(self) == 1 and self.lines else self.origin or "frame"
            raise InputError(f"{whose} has no column {name!r}; expected one among its columns {there}")
        return self.columns[name]

    def is_numeric(self, name: str) -> bool:
        """Whether more than half of the values that are there are numbers, or no value is there."""
        values = self.column(name)
        if values.dtype.kind in "biuf":
            return True
        there = [value for value in values.tolist() if not absent(value)]
        return values.dtype.kind != "M" and 2 * sum(number(value) is not None for value in there) >= len(there)

    def numbers(self, name: str) -> NDArray[np.float64]:
        """[rows] with NaN where nothing is.

        Raises InputError, naming the row, for what is no number or infinite.
        """
        values = self.column(name)
        if values.dtype.kind in "biuf":
            found = values.astype(np.float64)
        else:
            plain = values.tolist()
            tried = [math.nan if absent(value) else number(value) for value in plain]
            if None in tried:
                row = tried.index(None)
                raise InputError(f"{self.where(row)}, column {name!r} is {shown(plain[row])}; expected a number")
            found = np.array(tried, np.float64)
        if np.isinf(found).any():
            row = int(np.flatnonzero(np.isinf(found))[0])
            raise InputError(
                f"{self.where(row)}, column {name!r} is {found[row]}; expected a finite number, or nothing"
            )
        return found

    def names(self, name: str) -> list[str | None]:
        """The values as texts, None where nothing is; whole numbers without a decimal point."""
        return [None if absent(value) else _named(value) for value in self.column(name).tolist()]


def absent(value: Any) -> bool:
    """Whether a value of a column means that there is none."""
    if isinstance(value, str):
        return value.strip().lower() in NOTHING
    return (
        value is None or type(value).__name__ in ("NAType", "NaTType") or (isinstance(value, float) and value != value)
    )


def number(value: Any) -> float | None:
    """A value as a number, None if it is none."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _named(value: Any) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _pairs(frame: Any) -> list[tuple[Any, Any]]:
    """The columns of a frame by their names, and those of an index that has names."""
    names = getattr(frame, "column_names", getattr(frame, "columns", frame))
    if not isinstance(frame, Mapping) and names is frame:
        raise InputError(f"frame is {shown(frame)}; expected a data frame or a mapping from names to columns")
    index: Any = getattr(frame, "index", None)
    levels = [name for name in getattr(index, "names", ()) if name is not None and name not in names]
    try:
        return [(name, index.get_level_values(name)) for name in levels] + [(name, frame[name]) for name in names]
    except Exception as error:  # of a foreign library
        raise InputError(f"frame is a {type(frame).__name__} whose columns cannot be had: {one_line(error)}") from error


def _array(name: str, column: Any) -> NDArray[Any]:
    """[rows], of Python's objects where they are no numbers or times."""
    try:
        values = column.to_numpy() if hasattr(column, "to_numpy") else np.asarray(column)
        if values.dtype.kind in "US":  # numbers among texts would be texts
            values = np.array(column, object)
    except ValueError as error:
        raise InputError(f"column {name!r} is no column: {one_line(error)}; expected one value for each row") from error
    if values.ndim != 1:
        raise InputError(f"column {name!r} is of shape {list(values.shape)}; expected one value for each row, once")
    return values if values.dtype.kind in "biufM" else values.astype(object)
