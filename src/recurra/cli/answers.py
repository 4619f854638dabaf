"""What estimators answer, as tables to write down."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from recurra.compare.reading import in_words, tokens_of
from recurra.errors import InputError


def answer(estimator: Any, data: Any, asked: dict[str, Any]) -> Any:
    """The columns of what an estimator says of data.

    Raises InputError if it cannot be asked so.
    """
    tell = TELL[estimator.task]
    known = list(inspect.signature(tell).parameters)[2:]
    if strange := [name for name in asked if name not in known and "asked" not in known]:
        raise InputError(f"{strange[0]} is nothing that a model to {estimator.task} can be asked for")
    if data is None and estimator.task not in ("forecast", "recommend"):
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


def _targets(estimator: Any, data: Any) -> dict[str, Any]:
    """What each source becomes."""
    apart = [" " if in_words([field]) else "" for field in estimator.fields_]
    found = estimator.predict(data)
    return {
        "source": [apart[0].join(tokens) for tokens in data],
        "target": [apart[1].join(tokens) for tokens in found],
    }


def _next(estimator: Any, data: Any, users: list[str] | None = None) -> dict[str, Any]:
    """The ten items that each user most likely takes next; of all users, by default."""
    if data is not None:
        raise InputError("a model to recommend predicts for the users it has read of; take in new events by update")
    found = [(user, estimator.predict(user)) for user in users or estimator._standing.ids]
    rows = [(user, rank, item) for user, items in found for rank, item in enumerate(items, 1)]
    return dict(zip(("user", "rank", "item"), map(list, zip(*rows, strict=True)), strict=True))


def take_in(estimator: Any, rows: Any, learn: bool = False) -> Any:
    """What is said of new rows, from which it may learn; of events, what their users may take next."""
    told = estimator.update(rows, learn)
    if estimator.task != "recommend":
        return told
    return _next(estimator, None, [user for user in dict.fromkeys(rows.names(estimator.user)) if user is not None])


def _tagged_line(estimator: Any, line: str) -> dict[str, Any]:
    return {"words": line.split(), "tags": estimator.predict([line.split()])[0]}


def _translated_line(estimator: Any, line: str) -> dict[str, Any]:
    found = _targets(estimator, [tokens_of(line, [estimator.fields_[0]])])
    return {name: column[0] for name, column in found.items()}


LINES: dict[str, Callable[[Any, str], dict[str, Any]]] = {"tag": _tagged_line, "translate": _translated_line}
"""By task, what is said of one line of text: a sentence to be tagged, a source to be translated."""
TELL: dict[str, Callable[..., Any]] = {
    "forecast": _forecast,
    "detect": _forecast,
    "classify": _classes,
    "regress": _numbers,
    "tag": _tags,
    "translate": _targets,
    "recommend": _next,
}
"""By task."""
