"""Series that go on: forecasts with their uncertainty, at constant cost per new row."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from recurra import options
from recurra.data.frames import from_frame
from recurra.data.reading import Batch, Carried
from recurra.data.sequences import Field, Sequences
from recurra.data.times import Frequency
from recurra.errors import InputError
from recurra.state import State
from recurra.tasks import horizon, origins
from recurra.tasks.answers import as_table
from recurra.tasks.calendar import YEAR, Calendar, holidays_of
from recurra.tasks.conformal import HELD, Conformal
from recurra.tasks.estimator import Dice, Estimator
from recurra.tasks.feeding import feed
from recurra.tasks.following import Following
from recurra.tasks.future import Future, ends_of
from recurra.tasks.gaps import GAP, unit_of, with_gaps
from recurra.tasks.heads.names import number_head
from recurra.tasks.inlet import Encoding, Inlet, channels
from recurra.tasks.model import Model, Outlook
from recurra.tasks.news import expect_enough, expect_later, followed, missed, told
from recurra.tasks.onward import Onward
from recurra.tasks.passing import Pass, start
from recurra.tasks.pools import pool
from recurra.tasks.rollout import always
from recurra.tasks.standing import GoesOn
from recurra.tasks.walk import Report, evaluate
from recurra.training.carry import carried
from recurra.training.fitting import Progress, fit


class Forecaster(GoesOn):
    """Forecasts of the next `horizon` steps of any number of series, from every step of each at once.

    A table has a row for each series and time: `unique_id` (or `id`), `ds` (or `time`), the target, other columns.
    Missing values are NaN. Tables are data frames of pandas or polars, or mappings from names to columns; answers come
    as what was given.

    Args:
        pattern: which recurrence each block holds, such as "gru*2" or "mamba+lstm".
        horizon: steps ahead.
        target: columns of numbers to forecast.
        id, time, known, static, past, categories: which columns are what, as in `recurra.data.frames.from_frame`; those
            `known` ahead enter the forecast of each step of the horizon.
        head: the distribution: "student-t", "normal", "negative-binomial" (counts), "quantile", or a `Head`.
        scale: of targets and past columns: "running", known from the steps so far, the same for a series in any units;
            "fit", as over all data fitted on; "none".
        memory: steps that a running scale looks back, about; None is all. A series that has left the range of its past
            is read in the range of its present.
        gap: series need not be regular: rows come at any time, and the time since the row before is read as well. What
            is forecast lies the median of these times apart, or at the times of the table `known`.
        inlet: a part of one's own, a module or a function, that reads the scaled numbers of each step [B, T, channels]
            in place of a linear map, as `recurra.tasks.inlets.own.Own` has it; `load` asks for it again.
        conformal: intervals from errors on the last fifth of each series, which nothing is then learned from, rather
            than from what the head believes.
        feed: what is read while training: "truth"; "own", what was expected one step before; or (u, v), u steps of
            truth and v of its own in turn, each of which takes a call.
        holidays: a country whose holidays the calendar knows; the library `holidays` is needed while fitting.
        width, mlp, dropout, layers: of the `Backbone`.
        steps, seconds, learning_rate, weight_decay: of training, as in `recurra.training.fitting.Schedule`.
        batch, window: streams side by side, and the time steps that gradients flow through.
        seed: of all that is random.
    """

    task = "forecast"
    _kind: type = dict
    """Of the tables that were fitted on."""
    _errors: Conformal | None = None

    def __init__(
        self,
        pattern: str = "gru*2",
        *,
        horizon: int = 1,
        target: str | Sequence[str] = "y",
        id: str | None = None,
        time: str | None = None,
        known: Sequence[str] = (),
        static: Sequence[str] = (),
        past: Sequence[str] | None = None,
        categories: Sequence[str] = (),
        head: Any = "student-t",
        scale: str = "running",
        memory: int | None = 100,
        gap: bool = False,
        inlet: Any = None,
        holidays: str | None = None,
        conformal: bool = False,
        feed: Any = "truth",
        width: int = 64,
        mlp: int | None = None,
        dropout: float = 0.1,
        layers: Mapping[str, Mapping[str, Any]] | None = None,
        steps: int = 1000,
        seconds: float | None = None,
        batch: int = 16,
        window: int = 64,
        learning_rate: float = 4e-3,
        weight_decay: float = 0.05,
        seed: int = 0,
    ):
        self.pattern, self.horizon, self.target, self.id, self.time = pattern, horizon, target, id, time
        self.known, self.static, self.past, self.categories = known, static, past, categories
        self.head, self.scale, self.memory, self.holidays = head, scale, memory, holidays
        self.width, self.mlp, self.dropout, self.layers = width, mlp, dropout, layers
        self.gap, self.inlet, self.conformal, self.feed = gap, inlet, conformal, feed
        self.steps, self.seconds, self.batch, self.window = steps, seconds, batch, window
        self.learning_rate, self.weight_decay, self.seed = learning_rate, weight_decay, seed

    def fit(
        self,
        data: Any,
        progress: Progress | None = None,
        folder: str | Path | None = None,
        resume: bool = False,
        start: Estimator | None = None,
    ) -> Self:
        """Learn from a table, or from `Sequences`, and stand at the end of each series.

        Args:
            folder: keeps checkpoints, from which `resume` goes on where a fit was killed, to the same weights.
            start: an estimator of any task and of the same width, with whose inlet and backbone this one begins, as
                `recurra.tasks.transfer.take_over` has it.

        Raises:
            InputError: a setting is out of range, or the data are not what is expected: the message names the column.
            RecurraError: the loss became no number.
        """
        options.count("horizon", self.horizon)
        schedule, fed = self._schedule(), feed(self.feed)
        whole = self._whole(data)
        held = HELD if options.flag("conformal", self.conformal) else 0.0
        sequences = whole.cut((whole.lengths * (1 - held)).long())[0]
        expect_enough(sequences, self.horizon)
        fields = list(sequences.fields.values())
        frequency = Frequency(0, unit_of(sequences)) if self.gap else sequences.frequency()
        with Dice(self.seed):
            model = self._build(fields, asdict(frequency), {})
            model.inlet.fit(sequences)
            if (known := horizon.outlook(model).known) is not None:
                known.fit(sequences)
            reading = Carried(sequences, self._streams(sequences), self.window, self.seed)
            kept = self._kept(folder, resume, sequences, *self._begin(model, fields, start))

            def loss(batch: Batch, state: State | None) -> tuple[Tensor, State]:
                value, after = origins.loss(model, sequences, batch, state, fed)
                return value, carried(model.backbone, after, len(batch.rows))

            fit(model, reading, loss, schedule, progress, kept)
        self.model_, self.fields_, self._frequency, self._kind = model, fields, frequency, type(data)
        self._errors = Conformal.of(model, whole, sequences.lengths) if held else None
        return self._stand(whole)

    def _whole(self, data: Any) -> Sequences:
        """Data to be fitted on: with a row for every step, or with the gaps between rows."""
        if not isinstance(data, Sequences):
            data = from_frame(
                data, target=self.target, id=self.id, time=self.time, known=self.known, static=self.static,
                past=self.past, categories=self.categories,
            )  # fmt: skip
        if options.flag("gap", self.gap):
            return with_gaps(data, unit_of(data))
        try:
            return data.filled()
        except InputError as error:
            raise InputError(f"{error}. Rows that come at any time are read with gap=True") from error

    def _like(self, data: Any) -> Sequences:
        """Data of the columns that were fitted on."""
        fields = [field for field in self.fields_ if field.name != GAP]
        if isinstance(data, Sequences):
            if missing := [field.name for field in fields if field.name not in data.fields]:
                raise InputError(f"data has no column {missing[0]!r}, which this forecaster was fitted on")
            return data
        return from_frame(data, id=self.id, like=fields)

    def _regular(self, data: Any) -> Sequences:
        """Whole series, from their beginning, as the model reads them."""
        return self._as_read(self._like(data))[0]

    def _as_read(self, sequences: Sequences, behind: Tensor | None = None) -> tuple[Sequences, Tensor]:
        """As the model reads them, with missing rows where some are absent, or with gaps; and where the rows of these
        are among them, [N]. `behind` is as in `Sequences.regular`."""
        if not self.gap:
            return sequences.regular(self._frequency, behind)
        return with_gaps(sequences, self._frequency.seconds, behind), torch.arange(sequences.steps)

    def _streams(self, sequences: Sequences) -> int:
        """As many as asked for, of which each has a window at least."""
        return max(1, min(options.count("batch", self.batch), sequences.steps // options.count("window", self.window)))

    def _build(self, fields: Sequence[Field], about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Model:
        head = number_head(self.head)
        series = [f for role in ("target", "past") for f in fields if f.role == role and f.kind == "number"]
        others = [f for f in fields if f not in series]
        calendar = None
        if any(f.role == "time" and f.dated for f in fields):
            named = tensors.get("model.inlet.encoding.calendar.named")
            if named is None and self.holidays is not None:
                named = holidays_of(self.holidays)
            calendar = Calendar(about["months"] * YEAR / 12 + about["seconds"], named)
        elif self.holidays is not None:
            raise InputError(f"holidays is {self.holidays!r}; expected None, since there is no column of dates")
        ahead = [f for f in fields if f.role in ("known", "time")]
        known = Encoding(ahead, self.width, calendar)
        size = sum(channels(f) for f in fields if f.role == "target") * head.size
        outlook = Outlook(self.width, self.horizon, size, known if known.reads else None)
        inlet = Inlet(series, others, self.width, self.scale, calendar, self.memory, own=self.inlet)
        return Model(inlet, self._backbone(), pool("each", self.width), outlook, head)

    def _stand(self, sequences: Sequences) -> Self:
        """Read series from their beginning, and remember where each ends."""
        self._stand_at(sequences.ids, Pass(self.model_, sequences).run())
        self._ends, self._always = ends_of(sequences), always(sequences)
        return self

    def predict(
        self,
        data: Any = None,
        *,
        known: Any = None,
        level: Iterable[float] = (),
        quantiles: Iterable[float] = (),
        samples: int = 0,
        seed: int = 0,
        horizon: int | None = None,
    ) -> Any:
        """Forecast the steps that follow the end of each series.

        Args:
            data: read these series first, and forecast them alone; by default those seen so far go on.
            known: a table of the columns known ahead, with the times of the horizon; with `gap` these times are the
                horizon.
            level: percentages, such as [80, 95]: columns `y-lo-80` and `y-hi-80` between which the target falls so
                often.
            quantiles: probabilities, such as [0.1, 0.5]: columns `y-q-0.1`.
            samples: columns `y-sample-0` and so on, drawn with `seed`: paths, each step given those before it.
            horizon: so many steps rather than those fitted on; beyond these the model reads what it has said itself.

        Returns:
            a table: the id, the time, the target.

        Raises:
            InputError: an argument is out of range; what is known ends before the horizon; data have other columns.
        """
        self._expect_fitted()
        steps = self.horizon if horizon is None else options.count("horizon", horizon)
        options.whole("samples", samples)
        if data is not None:
            other, kind = self._another()._stand(self._regular(data)), type(data)
        else:
            other, kind = self, self._kind if known is None else type(known)
        future, onward = other._onward(steps, known)
        with Dice(seed):
            found = onward.table(self._targets, level, quantiles, samples)
        return as_table(kind, future.table(self.id) | found)

    def _onward(self, steps: int, known: Any) -> tuple[Future, Onward]:
        """The steps that follow where each series stands: when they are, and what is said of them."""
        model, standing = self.model_, self._standing
        future = Future.of(standing.ids, self._ends, self.fields_, self._frequency, steps)
        if self.gap and known is not None and standing.ids:
            future = future.at_times_of(known, self.id)
        ahead = future.known(horizon.outlook(model).known, self.fields_, known, self.id)
        return future, Onward(model, standing.place, self.fields_, steps, ahead, self._always, self._errors)

    def _another(self) -> Self:
        """The same model, which has read nothing."""
        other = self.clone()
        other.model_, other.fields_, other._frequency = self.model_, self.fields_, self._frequency
        other._stand_at([], start(self.model_, 0))
        other._ends, other._always, other._errors = torch.empty(0, dtype=torch.float64), State(), self._errors
        return other

    @property
    def _targets(self) -> list[str]:
        """A name for each number that is forecast."""
        fields = [field for field in self.fields_ if field.role == "target"]
        return [f.name if channels(f) == 1 else f"{f.name}-{n}" for f in fields for n in range(channels(f))]

    def update(self, rows: Any, learn: bool = False) -> Any:
        """Take new rows of any series, old or new, at the cost of one step each, whatever lies behind.

        Args:
            learn: also take one step of gradient descent, as small as those that `fit` began with, on the forecasts
                that these rows have fulfilled. Gradients flow through the rows that are given together.

        Returns:
            a table of the rows: the id, the time, the target, what had been `expected` of it and its `surprise`, minus
            the logarithm of its density: NaN where it is missing, and at the first row of a new series.

        Raises:
            InputError: the columns are others, or a row is not later than those before; nothing is then changed.
            RecurraError: the loss of these rows is not finite, likewise.
        """
        self._expect_fitted()
        sequences = self._like(rows)
        expected, surprise = self._take(sequences, learn)
        return as_table(type(rows), told(sequences, expected, surprise, self._targets, self.id))

    def _take(self, sequences: Sequences, learn: bool = False) -> tuple[Tensor, Tensor]:
        """Go on by new rows: what had been expected of each, and its surprise, [N, targets]."""
        old = self._standing.numbers(sequences.ids)
        known = torch.tensor(old) >= 0
        behind = torch.tensor([float(self._ends[n]) if n >= 0 else -math.inf for n in old], dtype=torch.float64)
        expect_later(sequences, behind)
        whole, rows = self._as_read(sequences, behind)
        begin = self._standing.begin(self.model_, old)
        if options.flag("learn", learn) and whole.steps:
            self._learner.slope(missed(self.model_, whole, begin, known))
        way = Pass(self.model_, whole, begin)
        expected, surprise = followed(self.model_, whole, way, known)
        self._go_on(whole, old, way.end)
        if learn and whole.steps:
            self._learner.step()
        return expected[rows], surprise[rows]

    def stream(self, id: str | None = None) -> Following:
        """A series that goes on row by row, a mapping from names to values each, from where it stands; a new `id`
        begins anew. What it reads is its own: this forecaster stays where it is.

        Raises InputError if nothing was fitted, or no `id` is given and there are several series.
        """
        self._expect_fitted()
        if id is None and len(self._standing.ids) != 1:
            raise InputError(
                f"id is None, and there are {len(self._standing.ids)} series; expected one of their names, or a new one"
            )
        name = self._standing.ids[0] if id is None else id
        if name not in self._standing.ids:
            place, end = start(self.model_, 1), -math.inf
        else:
            number = self._standing.ids.index(name)
            place, end = self._standing.place.rows([number]), float(self._ends[number])
        return Following(self.model_, self.fields_, place, end, self._frequency, self.gap)

    def _go_on(self, sequences: Sequences, old: list[int], end: State) -> None:
        """Stand at the end of new rows."""
        ends = ends_of(sequences)
        if sequences.time is None:
            ends = ends + torch.tensor([float(self._ends[n]) + 1 if n >= 0 else 0.0 for n in old])
        order = self._standing.go_on(sequences.ids, old, end)
        self._ends = torch.cat([self._ends, ends])[order]
        new = always(sequences)
        self._always = State({n: torch.cat([self._always.get(n, v[:0]), v])[order] for n, v in new.items()})

    def evaluate(
        self,
        data: Any,
        *,
        windows: int = 1,
        stride: int | None = None,
        season: int = 1,
        level: Iterable[float] = (80, 95),
    ) -> Report:
        """Forecast from `windows` origins of each series, as if what follows were not known, in one pass; beside the
        naive forecasts.

        Args:
            stride: steps between two origins; by default the horizon. The last origin is a horizon before the end.
            season: steps after which a series resembles itself: of the seasonal naive forecast, and of MASE.
            level: percentages whose bounds are checked.

        Raises:
            InputError: a series is too short, or data have other columns.
        """
        self._expect_fitted()
        stride = self.horizon if stride is None else stride
        corrected = None if self._errors is None else self._errors.quantiles
        return evaluate(self.model_, self._regular(data), windows, stride, season, list(level), corrected)

    def _about(self) -> dict[str, Any]:
        return super()._about() | asdict(self._frequency)

    def _remembered(self) -> dict[str, Tensor]:
        errors = {} if self._errors is None else {"errors": self._errors.errors}
        return super()._remembered() | {"ends": self._ends} | self._always.prefixed("always") | errors

    def _remember(self, about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        super()._remember(about, tensors)
        self._frequency, self._ends = Frequency(about["months"], about["seconds"]), tensors["ends"]
        self._always = State(tensors).under("always")
        self._errors = Conformal(tensors["errors"]) if "errors" in tensors else None
