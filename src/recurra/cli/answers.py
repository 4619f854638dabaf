"""What estimators answer, as tables to write down."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from recurra.errors import InputError


def answer(estimator: Any, data: Any, asked: dict[str, Any]) -> Any:
    """The columns of what an estimator says of data.

    Raises InputError if it cannot be asked so.
    """
    tell = TELL[estimator.task]
    known = list(inspect.signature(tell).parameters)[2:]
    if strange := [name for name in asked if name not in known and "asked" not in known]:
        raise InputError(f"{strange[0]} is nothing that a model to {estimator.task} can be asked for")
    if data is None and estimator.task != "forecast":
        raise InputError(f"data is missing; a model to {estimator.task} predicts from a file")
    return tell(estimator, data, **asked)


def _forecast(estimator: Any, data: Any, **asked: Any) -> Any:
    return estimator.predict(data, **asked)


def _classes(estimator: Any, data: Any) -> dict[str, Any]:
    """The likeliest class of each sequence, and the chances of all."""
    chances = estimator.predict_proba(data)
    found = {"id": data.ids, "class": estimator.classes_[chances.argmax(1)]}
    return found | {f"p-{name}": chances[:, n] for n, name in enumerate(estimator.classes_.tolist())}


def _numbers(estimator: Any, data: Any, quantiles: tuple[float, ...] = ()) -> dict[str, Any]:
    """A number for each sequence."""
    found = {"id": data.ids, "y": estimator.predict(data)}
    if quantiles:
        bounds = estimator.predict_quantiles(data, list(quantiles))
        found |= {f"y-q-{level:g}": bounds[:, n] for n, level in enumerate(quantiles)}
    return found


def _tags(estimator: Any, data: Any) -> dict[str, Any]:
    """A row for each word of each sentence."""
    tags = estimator.predict(data)
    return {
        "sentence": [number for number, words in enumerate(data) for _ in words],
        "word": [word for words in data for word in words],
        "tag": [tag or "" for found in tags for tag in found],
    }


TELL: dict[str, Callable[..., Any]] = {
    "forecast": _forecast,
    "detect": _forecast,
    "classify": _classes,
    "regress": _numbers,
    "tag": _tags,
}
"""By task."""
