"""Checks of arguments that are no tensors: each returns the value, or raises InputError and names it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TypeGuard, TypeVar

from recurra.errors import InputError

T = TypeVar("T")

MOST = 2**31
"""No size reaches this."""
LAYERS = 1001
"""Nor does a number of layers on top of one another reach this: more are a slip of the finger."""


def shown(value: object) -> str:
    """What came, in the words of a message: itself if that is short."""
    try:
        text = repr(value)
    except Exception:  # of a foreign type, or nested more deeply than can be written
        return f"a {type(value).__name__}"
    return text if len(text) <= 60 and "\n" not in text else f"a {type(value).__name__}"


def count(name: str, value: object, high: int = MOST) -> int:
    """A positive int, below `high`."""
    if not _is_int(value) or not 1 <= value < high:
        raise InputError(f"{name} is {shown(value)}; expected a positive int, below {high}")
    return value


def whole(name: str, value: object, low: int = 0, high: int = MOST) -> int:
    """An int from `low` up to, but not including, `high`."""
    if not _is_int(value) or not low <= value < high:
        raise InputError(f"{name} is {shown(value)}; expected an int of at least {low}, below {high}")
    return value


def divisor(name: str, value: object, whole: int, of: str) -> int:
    """A positive int that divides `whole`; `of` says what that is."""
    if not _is_int(value) or value < 1 or whole % value:
        raise InputError(f"{name} is {shown(value)}; expected a divisor of the {of} {whole}")
    return value


def number(name: str, value: object, low: float, high: float = sys.float_info.max) -> float:
    """A number from `low` up to, but not including, `high`; by default any that is finite."""
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not low <= value < high:
        upper = ", finite" if high == sys.float_info.max else f" and below {high}"
        raise InputError(f"{name} is {shown(value)}; expected a number of at least {low}{upper}")
    return float(value)


def choice(name: str, value: object, known: tuple[str, ...]) -> str:
    """One of the names known."""
    if not isinstance(value, str) or value not in known:
        raise InputError(f"{name} is {shown(value)}; expected {' or '.join(map(repr, known))}")
    return value


def flag(name: str, value: object) -> bool:
    """An option that is True or False."""
    if not isinstance(value, bool):
        raise InputError(f"{name} is {shown(value)}; expected True or False")
    return value


def path(name: str, value: object) -> Path:
    """The path of a file or a folder."""
    text = os.fspath(value) if isinstance(value, str | os.PathLike) else None
    if not isinstance(text, str) or "\0" in text:
        raise InputError(f"{name} is {shown(value)}; expected a path, such as 'runs/default'")
    return Path(text)


def instance(name: str, value: object, kind: type[T]) -> T:
    """A value of one type."""
    if not isinstance(value, kind):
        raise InputError(f"{name} is {shown(value)}; expected {kind.__name__}")
    return value


def function(name: str, value: object) -> None:
    """Something to call."""
    if not callable(value):
        raise InputError(f"{name} is {shown(value)}; expected a function")


def _is_int(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)
