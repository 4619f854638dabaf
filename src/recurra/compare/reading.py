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
    like: Fields | None = None,
    target: str | Sequence[str] = "y",
    id: str | None = None,
    time: str | None = None,
    known: Sequence[str] = (),
    static: Sequence[str] = (),
    past: Sequence[str] | None = None,
    categories: Sequence[str] = (),
) -> Sequences:
    """Series in a long table."""
    return from_frame(
        read_table(path), like=like, target=target, id=id, time=time, known=known, static=static, past=past,
        categories=categories,
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
        raise InputError(
            f"data {str(path)!r} has {len(table.columns)} columns; expected two, the source and the target"
        )
    sides = [table.names(name) for name in table.columns]
    for name, side in zip(table.columns, sides, strict=True):
        if None in side:
            raise InputError(f"{table.where(side.index(None))}, column {name!r} is empty; expected a text")
    whole = [[text or "" for text in side] for side in sides]
    apart = [any(" " in text.strip() for text in side) for side in whole]
    split = [[text.split() if words else list(text) for text in side] for words, side in zip(apart, whole, strict=True)]
    return from_pairs(zip(*split, strict=True), like=like)


def events(
    path: Path,
    *,
    like: Fields | None = None,
    target: str = "item_id",
    id: str = "user_id",
    time: str | None = None,
) -> Sequences:
    """What each user did, in a long table."""
    return from_events(read_table(path), user=id, item=target, time=time, like=like)


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
