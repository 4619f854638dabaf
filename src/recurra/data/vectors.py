"""Vectors of words that others have learned, in files of text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from recurra import options
from recurra.data.tabular import content_of, text_of
from recurra.errors import InputError


def read_vectors(path: str | Path, names: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Vectors of some words, from a file with a word and its numbers in each line, separated by spaces, as word2vec,
    GloVe and fastText write them; a first line with two numbers, how many there are of how many, is passed over.

    Args:
        names: words to look for, such as those of a `Vocabulary`.

    Returns:
        [names, D], zeros for words that are not in the file, and [names] bool, which are.

    Raises:
        InputError: the file cannot be read, holds no vector, or a line is not as the others: it is named.
    """
    path = options.path("path", path)
    wanted, found, width = {name: n for n, name in enumerate(names)}, {}, 0
    for line, text in enumerate(text_of(content_of(path), str(path)).splitlines(), 1):
        word, *numbers = text.rstrip().split(" ")
        if (line == 1 and len(numbers) == 1 and word.isdecimal()) or not text.strip():
            continue
        width = width or len(numbers)
        if len(numbers) != width or not width:
            raise InputError(
                f"{path}, line {line} has {len(numbers)} numbers; expected {width or 'some'} behind a word"
            )
        if word in wanted:
            found[wanted[word]] = _numbers(numbers, path, line)
    if not width:
        raise InputError(f"{path} holds no vector; expected a word and its numbers in each line")
    vectors, there = torch.zeros(len(names), width), torch.zeros(len(names), dtype=torch.bool)
    for n, values in found.items():
        vectors[n], there[n] = torch.tensor(values), True
    return vectors, there


def _numbers(texts: list[str], path: Path, line: int) -> list[float]:
    try:
        return [float(text) for text in texts]
    except ValueError as error:
        raise InputError(f"{path}, line {line}: {error}; expected a word and its numbers") from error
