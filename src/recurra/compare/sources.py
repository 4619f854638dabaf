"""What to learn from and what to be scored on: files of any kind, and data sets by name, for each task."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from recurra.data import sets
from recurra.data.frames import from_frame
from recurra.data.sequences import Sequences
from recurra.data.tabular import read_table
from recurra.errors import InputError

TASKS = {
    "forecast": ("recurra.tasks.forecaster", "Forecaster"),
}
"""What does each task: its module and class."""


def estimator_of(task: str) -> Any:
    """The class of a task. Raises InputError, with the tasks there are, if there is none such."""
    if task not in TASKS:
        raise InputError(f"task is {task!r}; expected one of {', '.join(TASKS)}")
    module, name = TASKS[task]
    return getattr(import_module(module), name)


@dataclass(frozen=True)
class Source:
    """An estimator and its data."""

    estimator: Any
    learn: Any
    """What to fit on."""
    test: Any
    """What to be scored on; None if nothing is held out."""
    how: dict[str, Any]
    """How `evaluate` is asked."""
    behind: Any
    """Rows behind those learnt from, which the model reads before it is saved; None if there are none."""

    def stand(self) -> None:
        """Read on, to the end of the data."""
        if self.behind is not None:
            self.estimator.update(self.behind)

    def score(self) -> Any:
        """What `evaluate` finds on what was held out."""
        return None if self.test is None else self.estimator.evaluate(self.test, **self.how)


def settings(given: dict[str, Any], others: list[str], task: str) -> dict[str, Any]:
    """Settings of an estimator: options that were given, and `name=value`, where a value is JSON or a text.

    Raises InputError, with the settings there are, if the estimator has none such.
    """
    found = {name: value for name, value in given.items() if value is not None}
    for each in others:
        name, equals, value = each.partition("=")
        if not equals:
            raise InputError(f"set is {each!r}; expected name=value")
        found[name.strip()] = _value(value.strip())
    known = estimator_of(task)().get_params()
    if strange := [name for name in found if name not in known]:
        raise InputError(f"{task} has no setting {strange[0]!r}; it has {', '.join(known)}")
    return found


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def find(task: str, data: str, settings: dict[str, Any], test: Path | None, windows: int | None) -> Source:
    """The data of a task, by the name of a set or of a file.

    Raises InputError if there is none such, it is of another task, or an option is none of this task.
    """
    split = None
    if data in sets.SETS and not Path(data).exists():
        known = sets.get(data)
        if known.task != task:
            raise InputError(f"data set {data!r} is to {known.task}; the task asked for is {task!r}")
        split = sets.load(data)
    return KINDS[task](data, split, settings, test, windows)


def _series(
    data: str, split: sets.Split | None, settings: dict[str, Any], test: Path | None, windows: int | None
) -> Source:
    """Series to forecast: the last windows are held out, and read before the model is saved."""
    if test is not None:
        raise InputError(f"test is {str(test)!r}; forecasts are scored on the last windows: say how many by --windows")
    how: dict[str, Any] = {}
    if split is not None:
        settings = {"horizon": split.horizon} | settings
        how = {"season": split.season}
        windows = split.windows if windows is None else windows
    estimator = estimator_of("forecast")(**settings)
    columns = ("target", "id", "time", "known", "static", "past", "categories")
    asked = {name: settings[name] for name in columns if name in settings}
    whole = from_frame(read_table(data), **asked) if split is None else split.test
    assert isinstance(whole, Sequences)
    if not windows:
        return Source(estimator, whole, None, how, None)
    new = estimator.horizon * windows
    if (short := (whole.lengths <= new + estimator.horizon).nonzero()).numel():
        which = int(short[0])
        raise InputError(
            f"series {whole.ids[which]!r} has {int(whole.lengths[which])} steps; to hold out {windows} windows of "
            f"{estimator.horizon} it needs {new + estimator.horizon + 1}"
        )
    return Source(estimator, whole.clip(stop=-new), whole, how | {"windows": windows}, whole.clip(start=-new))


def _table(data: Path, fields: Any = None) -> Any:  # noqa: ARG001 (an estimator looks at the columns itself)
    return read_table(data)


READERS: dict[str, Callable[..., Any]] = {"forecast": _table}
"""By task: from a file, and the fields that a model was fitted on, to what its estimator takes."""
KINDS: dict[str, Callable[..., Source]] = {"forecast": _series}
"""By the name of a task."""
