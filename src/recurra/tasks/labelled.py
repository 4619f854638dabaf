"""Whole sequences with one answer each: what classifiers and regressors have in common."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from recurra import options
from recurra.data.arrays import from_arrays
from recurra.data.reading import Batch, Padded, stretch
from recurra.data.sequences import Field, Sequences
from recurra.data.times import Frequency
from recurra.errors import InputError
from recurra.nn.linear import Linear
from recurra.state import State
from recurra.tasks import scikit
from recurra.tasks.estimator import Dice, Estimator
from recurra.tasks.gaps import GAP, gap_of, unit_of, with_gaps
from recurra.tasks.heads.head import Around, Head
from recurra.tasks.inlet import TOGETHER, Inlet
from recurra.tasks.model import Model
from recurra.tasks.onerow import OneRow
from recurra.tasks.pools import pool
from recurra.tasks.rowwise import Now, Rowwise
from recurra.training.fitting import Progress, fit

ALIKE = 8
"""Sequences come in such numbers where nothing is learned, the last one several times if need be: products of a few
rows take another way than those of many, and round otherwise. So what a case is told does not depend, to the bit, on
how many are beside it."""


class Labelled(Estimator):
    """One answer for each sequence. X is [cases, channels, T], [cases, T] of one channel, a list of [channels, T] or
    [T] whose lengths differ, or `Sequences`; NaN is missing."""

    _estimator_type: ClassVar[str]
    """What scikit-learn calls it."""
    _unit: float | None = None
    """Of gaps; None where they are not read."""
    _span: int
    """Steps in which random shapes have room: half of all sequences are at least as long."""
    n_features_in_: int
    """Columns of the table that was fitted on, if it was one."""

    def __sklearn_tags__(self) -> Any:
        """What scikit-learn asks of an estimator before it searches settings or validates across folds."""
        from sklearn import utils

        classifies = self._estimator_type == "classifier"
        # Its measure of a good score is a table whose columns come in no order; here they are read as time.
        return utils.Tags(
            estimator_type=self._estimator_type,
            target_tags=utils.TargetTags(required=True),
            classifier_tags=utils.ClassifierTags() if classifies else None,
            regressor_tags=None if classifies else utils.RegressorTags(poor_score=True),
            input_tags=utils.InputTags(three_d_array=True, allow_nan=True),
            non_deterministic=False,
        )

    def _answers(self, y: Any, fresh: bool) -> Tensor:
        """What the head learns, [cases], from answers as they were given; `fresh`: nothing was fitted before.

        Raises InputError if they are not what is expected.
        """
        raise NotImplementedError

    def _head(self) -> Head:
        raise NotImplementedError

    def _around(self) -> Around:
        """The units of the answers."""
        return Around()

    def fit(
        self,
        X: Any,
        y: Any = None,
        progress: Progress | None = None,
        folder: str | Path | None = None,
        resume: bool = False,
        start: Estimator | None = None,
    ) -> Self:
        """Learn from sequences and an answer for each; `y` may be left out where X has a target.

        Args:
            start: an estimator of any task and of the same width, with whose inlet and backbone this one begins, as
                `recurra.tasks.transfer.take_over` has it.
            folder: keeps checkpoints, from which `resume` goes on where a fit was killed, to the same weights.

        Raises:
            InputError: a setting is out of range, or the data are not what is expected: the message names the case.
            RecurraError: the loss became no number.
        """
        schedule = self._schedule()
        vars(self).pop("n_features_in_", None)
        sequences = self._sequences(X)
        answers = self._answers(given(sequences, y, type(self).__name__), fresh=True)
        self._unit = unit_of(sequences) if options.flag("gap", self.get_params()["gap"]) else None
        sequences = self._with_gaps(sequences)
        unread = ("target", "time") if self._unit is None else ("target",)
        fields = [field for field in sequences.fields.values() if field.role not in unread]
        if not any(field.role != "time" for field in fields):
            raise InputError("X has no columns to read; expected one besides the target")
        self._span = max(1, int(sequences.lengths.median())) if len(sequences) else 1
        batch = options.count("batch", self.get_params()["batch"])
        crop = options.number("crop", self.get_params()["crop"], 0, 1)
        with Dice(self.get_params()["seed"]):
            model = self._build(fields, {}, {})
            model.inlet.fit(sequences)
            begun = self._begin(model, fields, start)
            # Shapes are not trained: how often each is in a whole sequence is found once.
            seen = None if crop else model.inlet.seen(sequences)
            reading = Padded(sequences, batch, self.get_params()["seed"])

            def loss(batch: Batch, _: State | None) -> tuple[Tensor, None]:
                which = sequences.sequence_of[batch.rows[:, 0]]
                told = None if seen is None else seen[which]
                raw = self._raw(model, stretch(sequences, batch, crop) if crop else batch, told)
                return model.head.loss(raw, answers[which], None, self._around()), None

            kept = self._kept(folder, resume, sequences, answers, *begun)
            fit(model, reading, loss, schedule, progress, kept)
        self.model_, self.fields_ = model, fields
        return self

    def _build(self, fields: Sequence[Field], about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Model:  # noqa: ARG002
        own, head = self.get_params(), self._head()
        numbers = [field for field in fields if field.kind == "number" and field.name != GAP]
        series = [field for field in numbers if field.role not in ("static", "time")]
        others = [field for field in fields if field not in series]
        inlet = Inlet(
            series, others, own["width"], own["scale"], own=own["inlet"], shapes=own["shapes"], span=self._span
        )
        backbone = self._backbone(own["bidirectional"])
        outlook = Linear(own["width"] + inlet.beside, head.size)
        return Model(inlet, backbone, pool(own["pool"], own["width"]), outlook, head)

    def _raw(self, model: Model, batch: Batch, seen: Tensor | None = None) -> Tensor:
        """What the model says at the end of each sequence, [B, size]; `seen`, how often shapes are in each, if that is
        known."""
        ragged = batch.lengths if (batch.lengths < batch.rows.shape[1]).any() else None
        read, _ = model.read(batch.columns, lengths=ragged, look=seen is None)
        y = read.at(torch.arange(len(batch.rows)), batch.lengths - 1).y
        if seen is not None and model.inlet.shapes is not None:
            y = torch.cat([y, model.inlet.shapes.dropout(seen)[:, None]], -1)
        return model.outlook(y)[:, 0]

    def _with_gaps(self, sequences: Sequences) -> Sequences:
        return sequences if self._unit is None else with_gaps(sequences, self._unit)

    def _about(self) -> dict[str, Any]:
        return {"span": self._span} | ({} if self._unit is None else {"unit": self._unit})

    def _remember(self, about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:  # noqa: ARG002
        self._unit, self._span = about.get("unit"), about.get("span", 1)

    def _expect_fitted(self) -> None:
        if not hasattr(self, "model_"):
            raise scikit.not_fitted(f"this {type(self).__name__} has not been fitted; call fit first, or load one")

    def _sequences(self, X: Any, like: list[Field] | None = None) -> Sequences:
        """Arrays as sequences. A table of two axes has as many columns as that which was fitted on, if that was one."""
        if isinstance(X, Sequences):
            return X
        found = scikit.table(X, getattr(self, "n_features_in_", None))
        if like is None and (columns := scikit.columns(found)) is not None:
            self.n_features_in_ = columns
        return from_arrays(found, like=like)

    def _read(self, X: Any) -> Sequences:
        """Sequences of the columns that were fitted on."""
        self._expect_fitted()
        if not isinstance(X, Sequences):
            return self._sequences(X, self.fields_)
        if missing := [field.name for field in self.fields_ if field.name not in (*X.fields, GAP)]:
            raise InputError(f"X has no column {missing[0]!r}, which this {type(self).__name__} was fitted on")
        return self._with_gaps(X)

    @torch.no_grad()
    def _said(self, sequences: Sequences) -> Tensor:
        """Raw numbers for each sequence, [cases, size]."""
        if (empty := (sequences.lengths == 0).nonzero()).numel():
            raise InputError(f"X, case {int(empty[0])} has no time step; expected at least one")
        count = len(sequences)
        if short := -count % ALIKE:
            sequences = sequences.select([*range(count), *[count - 1] * short])
        return torch.cat([self._raw(self.model_, batch) for batch in Padded(sequences, TOGETHER, None)])[:count]

    def stream(self) -> Stream:
        """A sequence that comes row by row: an answer after each, from all rows so far.

        Raises InputError if this reads in both directions.
        """
        self._expect_fitted()
        if self.model_.backbone.bidirectional:
            raise InputError("this reads in both directions, which needs the whole sequence; set bidirectional=False")
        return Stream(self)

    def _told(self, raw: Tensor) -> Any:
        """The answer of raw numbers [1, size], as `stream` gives it."""
        raise NotImplementedError


class Stream:
    """One sequence that comes row by row, in constant memory."""

    def __init__(self, estimator: Labelled):
        self._estimator, model = estimator, estimator.model_
        self._row = OneRow(model, estimator.fields_, None, Frequency(0, 1.0))
        self._steps = Rowwise(model, Now(model), model.initial_state(1))
        self._end = -math.inf

    @torch.no_grad()
    def update(self, row: Any) -> Any:
        """What is answered after one more row: [channels] numbers or one number, or a mapping from names to values.

        Raises InputError, and nothing has happened, if the row is of other channels, or no later than that before.
        """
        if not isinstance(row, Mapping):
            row = {"x": row if hasattr(row, "__len__") and np.ndim(row) else [row]}
        now, unit = self._end, self._estimator._unit
        if unit is not None:
            now = self._row.later(row, self._end)
            row = {**row, GAP: gap_of(self._end, now, unit)}
        read = self._row.read(row, now)[0]
        self._end = now
        return self._estimator._told(self._steps.step(read))


def given(sequences: Sequences, y: Any, who: str) -> Any:
    """Answers: those given, or the target of the sequences, [cases] each."""
    targets = sequences.of_role("target")
    if y is None and targets:
        field = targets[0]
        values = sequences.values[field.name]
        values = values if field.whole else values[sequences.offsets[:-1]]
        return field.vocabulary.decode(values) if field.vocabulary is not None else values.numpy()
    found = scikit.answers(y, who)
    if len(found) != len(sequences):
        raise InputError(f"y has {len(found)} answers; expected {len(sequences)}, one for each case")
    return found
