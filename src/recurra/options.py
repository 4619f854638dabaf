"""Checks of a layer's options, for its constructor: each returns the value, or raises InputError and names it."""

from __future__ import annotations

from recurra.errors import InputError


def count(name: str, value: object) -> int:
    """A positive int."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InputError(f"{name} is {value!r}; expected a positive int")
    return value


def divisor(name: str, value: object, whole: int, of: str) -> int:
    """A positive int that divides `whole`; `of` says what that is."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1 or whole % value:
        raise InputError(f"{name} is {value!r}; expected a divisor of the {of} {whole}")
    return value


def number(name: str, value: object, low: float, high: float = float("inf")) -> float:
    """A number from `low` up to, but not including, `high`."""
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not low <= value < high:
        upper = "" if high == float("inf") else f" and below {high}"
        raise InputError(f"{name} is {value!r}; expected a number of at least {low}{upper}")
    return float(value)


def choice(name: str, value: object, known: tuple[str, ...]) -> str:
    """One of the names known."""
    if not isinstance(value, str) or value not in known:
        raise InputError(f"{name} is {value!r}; expected {' or '.join(map(repr, known))}")
    return value


def flag(name: str, value: object) -> bool:
    """An option that is True or False."""
    if not isinstance(value, bool):
        raise InputError(f"{name} is {value!r}; expected True or False")
    return value
