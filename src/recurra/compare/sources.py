"""What to learn from and what to be scored on: files of any kind, and data sets by name, for each task."""

from __future__ import annotations

import inspect
import json
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from recurra.compare.reading import READERS, series
from recurra.data import sets
from recurra.data.frames import from_frame
from recurra.data.sequences import Field, Sequences
from recurra.data.tabular import read_table
from recurra.errors import InputError
from recurra.options import shown

TASKS = {
    "forecast": ("recurra.tasks.forecaster", "Forecaster"),
    "classify": ("recurra.tasks.classifier", "Classifier"),
    "regress": ("recurra.tasks.regressor", "Regressor"),
    "tag": ("recurra.tasks.tagger", "Tagger"),
    "detect": ("recurra.tasks.detector", "Detector"),
    "translate": ("recurra.tasks.translator", "Translator"),
    "recommend": ("recurra.tasks.recommender", "Recommender"),
}
"""What does each task: its module and class."""
GOING_ON = ("forecast", "detect", "recommend")
"""Tasks of tables whose sequences go on: their estimators stand at the ends, and take new rows."""
AHEAD = ("forecast", "recommend")
"""Those of them that are scored on what comes last in each sequence."""


def estimator_of(task: str) -> Any:
    """The class of a task. Raises InputError, with the tasks there are, if there is none such."""
    if task not in TASKS:
        raise InputError(f"task is {task!r}; expected one of {', '.join(TASKS)}")
    module, name = TASKS[task]
    return getattr(import_module(module), name)


@dataclass(frozen=True)
class Scoring:
    """What is held out to be scored on, and how."""

    test: str | None = None
    """A file of other sequences."""
    windows: int | None = None
    """Horizons at the end of each series."""
    season: int | None = None
    """Of forecasts: steps after which a series resembles itself."""
    labels: str | None = None
    """Of anomalies: the column of `test` that is 1 where there is one."""

    def only(self, task: str, how: str, *names: str) -> None:
        """Raises InputError, with the words for how a task is scored, if another is given than it can use."""
        for name, value in asdict(self).items():
            if value is not None and name not in names:
                raise InputError(f"{name} is {shown(value)}; a model to {task} is scored on {how}")


NOTHING = Scoring()


@dataclass(frozen=True)
class Source:
    """An estimator and its data."""

    estimator: Any
    learn: Any
    """What to fit on."""
    columns: dict[str, Any] = field(default_factory=dict)
    """What was said of the columns of a file, for other files to be read alike."""
    test: Any = None
    """What to be scored on; None if nothing is held out."""
    how: dict[str, Any] = field(default_factory=dict)
    """How `evaluate` is asked."""
    behind: Any = None
    """Rows behind those learnt from, which the model reads before it is saved; None if there are none."""

    def stand(self) -> None:
        """Read on, to the end of the data."""
        if self.behind is not None:
            self.estimator.update(self.behind)

    def score(self) -> Any:
        """What `evaluate` finds on what was held out."""
        return None if self.test is None else self.estimator.evaluate(self.test, **self.how)


def settings(given: dict[str, Any], others: list[str], task: str) -> dict[str, Any]:
    """Settings of an estimator, and which columns of its data are what: options that were given, and `name=value`,
    where a value is JSON or a text.

    Raises InputError, with the names there are, if there is none such.
    """
    found = {name: value for name, value in given.items() if value is not None}
    for each in others:
        name, equals, value = each.partition("=")
        if not equals:
            raise InputError(f"set is {each!r}; expected name=value")
        found[name.strip()] = _value(value.strip())
    known = dict.fromkeys([*estimator_of(task)().get_params(), *_columns(task)])
    if strange := [name for name in found if name not in known]:
        raise InputError(f"{task} has no setting {strange[0]!r}; it has {', '.join(known)}")
    return found


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _columns(task: str) -> list[str]:
    """What a reader of files of a task is told of their columns."""
    names = inspect.signature(READERS[task]).parameters
    return [name for name in names if name not in ("path", "labels", "like")]


def find(task: str, data: str, given: dict[str, Any], scoring: Scoring = NOTHING) -> Source:
    """The data of a task, by the name of a set or of a file, and the estimator that settings ask for.

    Raises InputError if there is none such, it is of another task, or an option is none of this task.
    """
    kind, about = estimator_of(task), {name: given[name] for name in _columns(task) if name in given}
    split = None
    if data in sets.SETS and not Path(data).exists():
        known = sets.get(data)
        if known.task != task:
            raise InputError(f"data set {data!r} is to {known.task}; the task asked for is {task!r}")
        split = sets.load(data)
        given = ({"horizon": split.horizon} if task == "forecast" else {}) | given
    own = kind().get_params()
    estimator = kind(**{name: value for name, value in given.items() if name in own})
    if task in AHEAD:
        return _ahead(estimator, data, split, about, scoring)
    if task == "detect":
        return _anomalies(estimator, data, about, scoring)
    scoring.only(task, "other sequences: name a file by --test", "test")
    if split is not None:
        train: Any = split.train
        return Source(estimator, train.join(split.validation), about, split.test)
    learn = READERS[task](Path(data), **about)
    held_out = None if scoring.test is None else READERS[task](Path(scoring.test), like=fields_of(learn), **about)
    return Source(estimator, learn, about, held_out)


def _anomalies(estimator: Any, data: str, about: dict[str, Any], scoring: Scoring) -> Source:
    """Series to be watched, and others, of which a column says where something is wrong."""
    scoring.only("detect", "other series: name a file by --test, and its column of --labels", "test", "labels")
    if (scoring.test is None) != (scoring.labels is None):
        told = f"test is {shown(scoring.test)} and labels is {shown(scoring.labels)}"
        raise InputError(f"{told}; expected both, a file and its column that is 1 where something is wrong")
    learn = series(Path(data), labels=scoring.labels, **about)
    if scoring.test is None or scoring.labels is None:
        return Source(estimator, learn, about)
    table = read_table(Path(scoring.test))
    how = {"labels": labels_of(table, scoring.labels, estimator.id)}
    return Source(estimator, learn, about, table.without(scoring.labels), how)


def labels_of(table: Any, name: str, id: str | None) -> Any:
    """A column of a table, in the order in which an estimator reads its rows, series by series."""
    return from_frame(table, id=id, like=[Field(name, "number", "target")]).values[name].numpy()


def fields_of(data: Any) -> Any:
    """What the columns of some data are, for others to be read alike."""
    if isinstance(data, Sequences):
        return list(data.fields.values())
    return fields_of(data.source), fields_of(data.target)


def _ahead(
    estimator: Any,
    data: str,
    split: sets.Split | None,
    about: dict[str, Any],
    scoring: Scoring,
) -> Source:
    """Sequences that go on: the last windows are held out, and read before the model is saved."""
    forecasts = estimator.task == "forecast"
    scoring.only(estimator.task, "what comes last: use --windows", "windows", *(["season"] if forecasts else []))
    windows, season = scoring.windows, scoring.season
    if split is not None:
        windows, season = (
            own if own is not None else usual for own, usual in ((windows, split.windows), (season, split.season))
        )
    how = {"season": season} if forecasts and season is not None else {}
    whole: Any = READERS[estimator.task](Path(data), **about) if split is None else split.test
    if not windows:
        return Source(estimator, whole, about)
    if estimator.task == "recommend":
        if windows != 1:
            raise InputError(f"windows is {windows}; a model to recommend is scored on the last event: expected 1")
        return Source(estimator, whole.clip(stop=-1), about, whole, how, whole.clip(start=-1))
    new = estimator.horizon * windows
    if (short := (whole.lengths <= new).nonzero()).numel():
        which = int(short[0])
        raise InputError(
            f"series {whole.ids[which]!r} has {int(whole.lengths[which])} steps; to hold out {windows} windows of "
            f"{estimator.horizon} it needs {new + 1}"
        )
    held_out = how | {"windows": windows}
    return Source(estimator, whole.clip(stop=-new), about, whole, held_out, whole.clip(start=-new))
