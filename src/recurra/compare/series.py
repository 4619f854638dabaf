"""All trials of a comparison, one after the other; those finished before are only looked up."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from recurra.compare.trial import MEASURES, Trial, run
from recurra.data.tabular import parse_json
from recurra.errors import InputError
from recurra.files import read_text, write_atomically
from recurra.models.pattern import parse


def plan(like: Trial, models: Sequence[str], seeds: int) -> list[Trial]:
    """Every model with every seed, all else as in `like`.

    Raises InputError, before anything is trained, if there is no model, one cannot be read, or the data will not do.
    """
    if like.task not in MEASURES:
        raise InputError(f"task is {like.task!r}; expected one with a number to compare by: {', '.join(MEASURES)}")
    if not models:
        raise InputError("models is empty; expected patterns separated by commas, such as 'gru*2,mamba*2'")
    for pattern in models:
        parse(pattern)
    trials = [replace(like, pattern=pattern, seed=seed) for seed in range(seeds) for pattern in dict.fromkeys(models)]
    if trials[0].source().test is None:
        raise InputError(
            "nothing is held out to be scored on; say how many horizons by windows, or a file by test (and its labels)"
        )
    return trials


def finished(trials: Sequence[Trial], path: Path) -> Iterator[dict[str, Any]]:
    """The result of each trial. Those in the file are taken from there, others are run and written to it at once.

    Raises InputError if the file is none of ours.
    """
    known = _read(path) if path.exists() else {}
    for trial in trials:
        key = trial.key
        if key not in known:
            known[key] = run(trial)
            write_atomically(path, "".join(json.dumps({"key": k, **v}) + "\n" for k, v in known.items()))
        yield known[key]


def _read(path: Path) -> dict[str, dict[str, Any]]:
    found = {}
    for number, line in enumerate(read_text(path).splitlines(), 1):
        row = parse_json(line, f"{path}, line {number}")
        if not {"key", "pattern", "error"} <= set(row):
            raise InputError(f"{path}, line {number} is no result of a comparison; name another folder by out")
        found[str(row.pop("key"))] = row
    return found
