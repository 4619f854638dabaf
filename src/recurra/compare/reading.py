"""Files of each task, as what its estimator takes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from recurra.data.arrays import from_arrays
from recurra.data.formats import parse_arff, parse_conllu, parse_ts
from recurra.data.frames import from_events, from_frame
from recurra.data.sequences import Field, Sequences
from recurra.data.tables import Table
from recurra.data.tabular import content_of, read_table, text_of
from recurra.data.words import Pairs, from_conllu, from_pairs
from recurra.errors import InputError

Fields = Iterable[Field]
CASES = {".ts": parse_ts, ".arff": parse_arff}
"""Files of whole series with a label each."""
CONLLU = (".conllu", ".conll")


def series(
    path: Path,
    *,
    labels: str | None = None,
    like: Fields | None = None,
    target: str | Sequence[str] = "y",
    id: str | None = None,
    time: str | None = None,
    known: Sequence[str] = (),
    static: Sequence[str] = (),
    past: Sequence[str] | None = None,
    categories: Sequence[str] = (),
) -> Sequences:
    """Series in a long table, whose column of `labels` is not read."""
    return from_frame(
        read_table(path).without(labels), like=like, target=target, id=id, time=time, known=known, static=static,
        past=past, categories=categories,
    )  # fmt: skip


def cases(
    path: Path,
    *,
    labels: str = "category",
    like: Fields | None = None,
    target: str = "y",
    id: str | None = None,
    time: str | None = None,
    static: Sequence[str] = (),
    past: Sequence[str] | None = None,
    categories: Sequence[str] = (),
) -> Sequences:
    """Series with a label each, a "category" or a "number": .ts and .arff files, or a long table whose target is the
    same in all rows of a series."""
    known = None if like is None else list(like)
    parse = CASES.get(path.suffix.lower())
    if parse is None:
        classes = [target] if labels == "category" else []
        return from_frame(
            read_table(path), like=known, target=target, id=id, time=time, static=[*static, target], past=past,
            categories=[*categories, *classes],
        )  # fmt: skip
    found, y = parse(text_of(content_of(path), str(path)), str(path))
    told = known is None or any(field.role == "target" for field in known)
    return from_arrays(found, y if told else None, labels=labels, like=known, name=str(path))


def sentences(path: Path, *, like: Fields | None = None, target: str = "upos") -> Sequences:
    """Sentences of CoNLL-U, whose target is one of its columns."""
    if path.suffix.lower() not in CONLLU:
        raise InputError(f"data {str(path)!r} holds no tags; expected a file of CoNLL-U, ending in .conllu")
    return from_conllu(text_of(content_of(path), str(path)), [target], like=like, origin=str(path))


def words(path: Path) -> list[list[str]]:
    """Sentences to be tagged: of CoNLL-U, or one in each line, its words apart by spaces."""
    text = text_of(content_of(path), str(path))
    if path.suffix.lower() in CONLLU:
        return parse_conllu(text, str(path)).words
    return [line.split() for line in text.split("\n") if line.strip()]


def pairs(path: Path, *, like: tuple[Fields, Fields] | None = None) -> Pairs:
    """A table of two columns, source and target; tokens are apart by spaces where a text has some, else letters."""
    table = read_table(path)
    if len(table.columns) != 2:
        count = len(table.columns)
        raise InputError(f"data {str(path)!r} has {count} columns; expected two, the source and the target")
    whole = [_texts(table, name) for name in table.columns]
    known = None if like is None else (list(like[0]), list(like[1]))
    apart = [any(" " in text for text in side) for side in whole] if known is None else [*map(in_words, known)]
    split = [[text.split() if words else list(text) for text in side] for words, side in zip(apart, whole, strict=True)]
    return from_pairs(zip(*split, strict=True), like=known)


def sources(path: Path, like: Fields) -> list[list[str]]:
    """What is to be translated: the first column of a table, or, in a .txt file, each line."""
    known = list(like)
    if path.suffix.lower() == ".txt":
        lines = text_of(content_of(path), str(path)).split("\n")
        found = [line.strip() for line in lines if line.strip()]
    else:
        table = read_table(path)
        found = _texts(table, next(iter(table.columns)))
    return [tokens_of(text, known) for text in found]


def tokens_of(text: str, like: list[Field]) -> list[str]:
    """A text as those that a model was fitted on."""
    return text.split() if in_words(like) else list(text)


def in_words(fields: list[Field]) -> bool:
    """Whether tokens are words, rather than letters."""
    return any(len(name) > 1 for field in fields if field.vocabulary is not None for name in field.vocabulary.names)


def _texts(table: Table, name: str) -> list[str]:
    """A column of texts. Raises InputError, naming the row, if one is missing."""
    found = table.names(name)
    if None in found:
        raise InputError(f"{table.where(found.index(None))}, column {name!r} is empty; expected a text")
    return [(text or "").strip() for text in found]


def events(
    path: Path,
    *,
    like: Fields | None = None,
    user: str = "user_id",
    item: str = "item_id",
    time: str | None = None,
) -> Sequences:
    """What each user did, in a long table."""
    return from_events(read_table(path), user=user, item=item, time=time, like=like)


READERS: dict[str, Callable[..., Any]] = {
    "forecast": series,
    "detect": series,
    "classify": cases,
    "regress": partial(cases, labels="number"),
    "tag": sentences,
    "translate": pairs,
    "recommend": events,
}
"""By task: from a file, what its columns are, and the fields of other data that they are to be like."""
