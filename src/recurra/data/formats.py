"""Files in which series, sentences and pronunciations are passed on. Every message names file and line."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recurra.data.tables import NOTHING, Table
from recurra.data.times import Frequency
from recurra.errors import InputError

STEPS = {
    "yearly": Frequency(12, 0),
    "quarterly": Frequency(3, 0),
    "monthly": Frequency(1, 0),
    "weekly": Frequency(0, 7 * 86400),
    "daily": Frequency(0, 86400),
    "hourly": Frequency(0, 3600),
    "half_hourly": Frequency(0, 1800),
    "10_minutes": Frequency(0, 600),
    "minutely": Frequency(0, 60),
}


def parse_tsf(text: str, origin: str) -> Table:
    """Series of Monash's archive, as a long table with `unique_id`, `ds` and `y`.

    Each line of the data holds attributes and then the values, separated by commas; ? is missing.
    """
    names: list[str] = []
    step = None
    ids, times, values, lines = [], [], [], []
    for number, line in _content(text, "#"):
        if line.startswith("@"):
            word, _, rest = line[1:].partition(" ")
            if word == "attribute":
                names.append(rest.split()[0])
            elif word == "frequency":
                step = _expected(STEPS, rest.strip(), f"{origin}, line {number}, frequency")
            continue
        parts = line.split(":")
        if len(parts) != len(names) + 1 or "start_timestamp" not in names or step is None:
            raise InputError(
                f"{origin}, line {number} has {len(parts) - 1} attributes; expected {len(names)}, start_timestamp "
                "among them, and a @frequency before the data"
            )
        about = dict(zip(names, parts, strict=False))
        found = _numbers(parts[-1], f"{origin}, line {number}")
        date, _, clock = about["start_timestamp"].partition(" ")
        first = np.datetime64(f"{date}T{clock.replace('-', ':')}" if clock else date, "s").astype(np.int64)
        ids += [about.get("series_name", str(number))] * len(found)
        times.append(np.array([step.after(float(first), n) for n in range(len(found))]).astype("datetime64[s]"))
        values.append(found)
        lines += [number] * len(found)
    if not values:
        raise InputError(f"{origin} holds no series; expected lines of values after @data")
    return Table(
        {"unique_id": np.array(ids, object), "ds": np.concatenate(times), "y": np.concatenate(values)}, origin, lines
    )


def parse_ts(text: str, origin: str) -> tuple[list[NDArray[np.float64]], list[str]]:
    """(series [channels, T] of the UEA and UCR archives, their labels): channels are separated by colons, the label
    comes last; ? is missing."""
    cases, labels = [], []
    for number, line in _content(text, "#", "%"):
        if line.startswith("@"):
            if line.lower().split() == ["@timestamps", "true"]:
                raise InputError(f"{origin}, line {number}: time stamps are not read; expected series of equal steps")
            continue
        *channels, label = line.split(":")
        rows = [_numbers(channel, f"{origin}, line {number}") for channel in channels]
        if not rows or len({len(row) for row in rows}) > 1:
            raise InputError(
                f"{origin}, line {number} has channels of lengths {[len(r) for r in rows]}; expected one length"
            )
        cases.append(np.stack(rows))
        labels.append(label.strip())
    if not cases:
        raise InputError(f"{origin} holds no series; expected lines of values after @data")
    return cases, labels


def parse_arff(text: str, origin: str) -> tuple[list[NDArray[np.float64]], list[str]]:
    """(series [1, T], their labels): one in a line, the label comes last; ? is missing."""
    cases, labels = [], []
    for number, line in _content(text, "%"):
        if line.startswith("@"):
            if "relational" in line.lower().split():
                raise InputError(
                    f"{origin}, line {number}: several channels are not read from ARFF; expected a .ts file"
                )
            continue
        values, _, label = line.rpartition(",")
        cases.append(_numbers(values, f"{origin}, line {number}")[None])
        labels.append(label.strip().strip("'\""))
    if not cases:
        raise InputError(f"{origin} holds no series; expected lines of values after @data")
    return cases, labels


@dataclass(frozen=True)
class Sentences:
    """Words and what is said of each."""

    words: list[list[str]]
    tags: dict[str, list[list[str | None]]]
    """By the name of a column, for each word of each sentence; None where there is none."""
    where: list[str]
    """Words for each sentence in a message."""


CONLLU = ("upos", "xpos", "feats", "head", "deprel", "deps", "misc")


def parse_conllu(text: str, origin: str) -> Sentences:
    """Sentences of CoNLL-U: words in lines of ten columns, an empty line after each sentence. What is written as
    several words is passed over for its parts, and so are words that are not written."""
    found = Sentences([], {name: [] for name in ("lemma", *CONLLU)}, [])
    began, words = 0, []
    for number, line in enumerate([*text.split("\n"), ""], 1):
        line = line.rstrip("\r")
        if line.startswith("#"):
            continue
        if line:
            columns = line.split("\t")
            if len(columns) != 10:
                raise InputError(
                    f"{origin}, line {number} has {len(columns)} columns; expected the ten of CoNLL-U, with tabs"
                )
            if columns[0].isdecimal():
                began = began or number
                words.append(columns)
            elif not re.fullmatch(r"\d+[-.]\d+", columns[0]):
                raise InputError(f"{origin}, line {number}, column 1 is {columns[0]!r}; expected the number of a word")
        elif words:
            found.words.append([word[1] for word in words])
            for name, place in zip(("lemma", *CONLLU), range(2, 10), strict=True):
                found.tags[name].append([None if word[place] == "_" else word[place] for word in words])
            found.where.append(f"{origin}, line {began}")
            began, words = 0, []
    if not found.words:
        raise InputError(f"{origin} holds no sentence; expected lines of CoNLL-U")
    return found


def parse_brown(text: str, origin: str) -> Sentences:
    """Sentences of the Brown corpus: one in a line, each word with a slash and its tag. Marks of titles, headlines and
    quoted words (-tl, -hl, -nc) are taken off the tags."""
    found = Sentences([], {"pos": []}, [])
    for number, line in _content(text):
        pairs = [token.rpartition("/") for token in line.split()]
        if any(not slash or not word for word, slash, _ in pairs):
            wrong = next("".join(pair) for pair in pairs if not pair[1] or not pair[0])
            raise InputError(f"{origin}, line {number}: {wrong!r}; expected a word, a slash and its tag")
        found.words.append([word for word, _, _ in pairs])
        found.tags["pos"].append([re.sub(r"(-tl|-hl|-nc)+$", "", tag) for _, _, tag in pairs])
        found.where.append(f"{origin}, line {number}")
    return found


def parse_cmudict(text: str, origin: str) -> list[tuple[str, list[str]]]:
    """(word, phones without stress) of each pronunciation; a word may have several, which come under the same name."""
    found = []
    for number, line in _content(text, ";;;"):
        word, *phones = line.partition("#")[0].split()
        if not phones:
            raise InputError(f"{origin}, line {number}: {line!r}; expected a word and its phones")
        found.append((re.sub(r"\(\d+\)$", "", word), [phone.rstrip("012") for phone in phones]))
    return found


def _content(text: str, *comments: str) -> Iterator[tuple[int, str]]:
    """(number, line) of what is no comment and not empty."""
    for number, line in enumerate(text.split("\n"), 1):
        line = line.strip()
        if line and not (comments and line.startswith(comments)):
            yield number, line


def _numbers(values: str, where: str) -> NDArray[np.float64]:
    try:
        return np.array([np.nan if v.strip().lower() in NOTHING else float(v) for v in values.split(",")])
    except ValueError as error:
        raise InputError(f"{where}: {error}; expected numbers separated by commas, or ?") from error


def _expected(known: dict[str, Frequency], name: str, what: str) -> Frequency:
    if name not in known:
        raise InputError(f"{what} is {name!r}; expected one of {', '.join(known)}")
    return known[name]


def every(sentences: Iterable[Sentences]) -> Sentences:
    """Several files as one, with the tags that all have."""
    files = list(sentences)
    names = [name for name in files[0].tags if all(name in file.tags for file in files)]
    return Sentences(
        [words for file in files for words in file.words],
        {name: [tags for file in files for tags in file.tags[name]] for name in names},
        [where for file in files for where in file.where],
    )
