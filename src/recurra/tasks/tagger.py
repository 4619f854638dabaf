"""A tag for each step of a sequence."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from recurra import options
from recurra.data.reading import Batch, Padded
from recurra.data.sequences import Field, Sequences
from recurra.data.words import from_tokens
from recurra.errors import InputError
from recurra.metrics.labels import span_f1
from recurra.nn.linear import Linear
from recurra.state import State
from recurra.tasks.estimator import Dice, Estimator
from recurra.tasks.gaps import GAP, unit_of, with_gaps
from recurra.tasks.heads.categorical import Categorical
from recurra.tasks.heads.crf import CRF
from recurra.tasks.heads.head import Around, Head
from recurra.tasks.inlet import TOGETHER, Inlet
from recurra.tasks.model import Model
from recurra.tasks.pools import pool
from recurra.tasks.tagging import Tagging
from recurra.training.fitting import Progress, fit

HEADS = {"crf": CRF, "categorical": Categorical}
TAG = "tag"


class Tagged(dict[str, Any]):
    """What an evaluation found, plain data; printed, a few lines."""

    def __str__(self) -> str:
        lines = [f"accuracy {self['accuracy']:.4f} of {self['steps']} steps, F1 of spans {self['span_f1']:.4f}"]
        if self["unknown"]["steps"]:
            lines.append(
                f"words not known from training: {self['unknown']['accuracy']:.4f} of {self['unknown']['steps']}"
            )
        lines.append(f"the most frequent tag: {self['floors']['most frequent']['accuracy']:.4f}")
        return "\n".join(lines)


class Tagger(Estimator):
    """A tag for each word of a sentence, or for each step of any sequence.

    X are sentences, lists of words, which are read as words and by their letters; or `Sequences`, whose target has a
    value at each step.

    Args:
        pattern: which recurrence each block holds.
        head: "crf", all tags of a sequence together; "categorical", each by itself.
        bidirectional: each block reads in both directions.
        scale: of numbers: "fit", as over all data fitted on; "running"; "none".
        gap: the time since the step before is read as well, in units of the median: for data with a column of times.
        inlet: a part of one's own, a module or a function, that reads the scaled numbers of each step [B, T, channels]
            in place of a linear map, as `recurra.tasks.inlets.own.Own` has it; `load` asks for it again.
        word_dropout: this share of words is read as unknown while training, so that their letters learn to speak for
            them.
        width, mlp, dropout, layers: of the `Backbone`; dropout also of what it reads.
        steps, seconds, learning_rate, weight_decay: of training, as in `recurra.training.fitting.Schedule`.
        batch: sequences in one update.
        seed: of all that is random.
    """

    task = "tag"
    _unit: float | None = None
    """Of gaps; None where they are not read."""

    def __init__(
        self,
        pattern: str = "lstm",
        *,
        head: str = "crf",
        bidirectional: bool = True,
        scale: str = "fit",
        gap: bool = False,
        inlet: Any = None,
        word_dropout: float = 0.15,
        width: int = 128,
        mlp: int | None = None,
        dropout: float = 0.3,
        layers: Mapping[str, Mapping[str, Any]] | None = None,
        steps: int = 1000,
        seconds: float | None = None,
        batch: int = 32,
        learning_rate: float = 4e-3,
        weight_decay: float = 0.05,
        seed: int = 0,
    ):
        self.pattern, self.head, self.bidirectional, self.scale = pattern, head, bidirectional, scale
        self.gap, self.inlet, self.word_dropout = gap, inlet, word_dropout
        self.width, self.mlp, self.dropout, self.layers = width, mlp, dropout, layers
        self.steps, self.seconds, self.batch = steps, seconds, batch
        self.learning_rate, self.weight_decay, self.seed = learning_rate, weight_decay, seed

    def fit(
        self,
        X: Any,
        y: Any = None,
        progress: Progress | None = None,
        folder: str | Path | None = None,
        resume: bool = False,
        start: Estimator | None = None,
    ) -> Self:
        """Learn from sentences and their tags, None where one is missing; or from `Sequences` with a target.

        Args:
            folder: keeps checkpoints, from which `resume` goes on where a fit was killed, to the same weights.
            start: an estimator of any task and of the same width, with whose inlet and backbone this one begins, as
                `recurra.tasks.transfer.take_over` has it.

        Raises:
            InputError: a setting is out of range, or the data are not what is expected: the message names the sentence.
            RecurraError: the loss became no number.
        """
        schedule = self._schedule()
        options.choice("head", self.head, tuple(HEADS))
        options.number("word_dropout", self.word_dropout, 0, 1)
        sequences = X if isinstance(X, Sequences) else self._told(X, y)
        self._unit = unit_of(sequences) if options.flag("gap", self.gap) else None
        sequences = self._with_gaps(sequences)
        target, fields = _target(sequences), list(sequences.fields.values())
        with Dice(self.seed):
            model = self._build(fields, {}, {})
            model.inlet.fit(sequences)
            reading = Padded(sequences, options.count("batch", self.batch), self.seed)

            def loss(batch: Batch, _: State | None) -> tuple[Tensor, None]:
                raw, around = self._raw(model, self._blanked(batch, sequences.fields.get("word")))
                return model.head.loss(raw, batch.columns[target.name], None, around), None

            kept = self._kept(folder, resume, sequences, *self._begin(model, fields, start))
            fit(model, reading, loss, schedule, progress, kept)
        self.model_, self.fields_ = model, fields
        self._often = _most_frequent(sequences, target)
        return self

    def _told(self, X: Any, y: Any) -> Sequences:
        if y is None:
            raise InputError("y is missing; expected a tag for each word of each sentence")
        if len(y) != len(X):
            raise InputError(f"y has {len(y)} lists of tags; expected {len(X)}, one for each sentence")
        return from_tokens(X, {TAG: y})

    def _build(self, fields: Sequence[Field], about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Model:  # noqa: ARG002
        target = next(field for field in fields if field.role == "target")
        assert target.vocabulary is not None
        head: Head = HEADS[self.head](target.vocabulary.unknown)
        read = [field for field in fields if field.role not in ("target", "time")]
        series = [field for field in read if field.kind == "number" and field.role != "static" and field.name != GAP]
        others = [field for field in read if field not in series]
        inlet = Inlet(series, others, self.width, self.scale, dropout=self.dropout, own=self.inlet)
        outlook = Linear(self.width, head.size)
        return Model(inlet, self._backbone(self.bidirectional), pool("each", self.width), outlook, head)

    def _blanked(self, batch: Batch, word: Field | None) -> Batch:
        """The batch with some words unknown."""
        if word is None or word.vocabulary is None or not self.word_dropout:
            return batch
        words = batch.columns[word.name]
        gone = (torch.rand(words.shape) < self.word_dropout) & (words >= 0)
        return replace(batch, columns=batch.columns | {word.name: torch.where(gone, word.vocabulary.unknown, words)})

    def _raw(self, model: Model, batch: Batch) -> tuple[Tensor, Around]:
        """[B, T, classes], and where sequences end."""
        ragged = batch.lengths if (batch.lengths < batch.rows.shape[1]).any() else None
        return model(batch.columns, lengths=ragged)[0], Around(lengths=ragged)

    def _read(self, X: Any) -> Sequences:
        """Sequences of the columns that were fitted on."""
        self._expect_fitted()
        if not isinstance(X, Sequences):
            return from_tokens(X, like=self.fields_)
        reads = self.model_.inlet.reads
        if missing := [name for name in reads if name not in (*X.fields, GAP)]:
            raise InputError(f"X has no column {missing[0]!r}, which this tagger was fitted on")
        return self._with_gaps(X)

    def _with_gaps(self, sequences: Sequences) -> Sequences:
        return sequences if self._unit is None else with_gaps(sequences, self._unit)

    @torch.no_grad()
    def _codes(self, sequences: Sequences) -> Tensor:
        """[N] int64: the tag of each step."""
        found = torch.full((sequences.steps,), -1)
        if not sequences.steps:
            return found
        for batch in Padded(sequences, TOGETHER, None):
            raw, around = self._raw(self.model_, batch)
            there = batch.rows >= 0
            found[batch.rows[there]] = self.model_.head.predict(raw, around)[there]
        return found

    def predict(self, X: Any) -> list[list[str | None]]:
        """The tags of each sentence.

        Raises InputError if nothing was fitted, or a sentence is none.
        """
        sequences = self._read(X)
        vocabulary = _vocabulary(self.fields_)
        tags, ends = vocabulary.decode(self._codes(sequences)), sequences.offsets.tolist()
        return [tags[a:b] for a, b in pairwise(ends)]

    def stream(self) -> Tagging:
        """A sequence that comes step by step, and its tags so far.

        Raises InputError if nothing was fitted, or if this reads in both directions.
        """
        self._expect_fitted()
        if self.model_.backbone.bidirectional:
            raise InputError("this reads in both directions, which needs the whole sequence; set bidirectional=False")
        return Tagging(self.model_, self.fields_, self._unit)

    def evaluate(self, X: Any, y: Any = None) -> Tagged:
        """The share of tags that are right, of words that training did not know as well, and F1 of spans (tags B-kind,
        I-kind, O); beside the most frequent tag of each word. Steps without a tag do not count.

        Raises InputError as `predict`, and for tags never seen while fitting.
        """
        began = time.perf_counter()
        self._expect_fitted()
        sequences = X if isinstance(X, Sequences) else from_tokens(X, {TAG: y}, like=self.fields_)
        target, vocabulary = _target(sequences), _vocabulary(self.fields_)
        true, said = sequences.values[target.name], self._codes(self._read(sequences))
        there = true >= 0
        words = sequences.values["word"] if "word" in sequences.fields else torch.zeros_like(true)
        unknown = there & (words == len(self._often) - 1) if "word" in sequences.fields else torch.zeros_like(there)
        ends = sequences.offsets.tolist()
        lists = [[tags[a:b] for a, b in pairwise(ends)] for tags in (vocabulary.decode(true), vocabulary.decode(said))]
        return Tagged(
            accuracy=_share(true == said, there),
            unknown={"accuracy": _share(true == said, unknown), "steps": int(unknown.sum())},
            span_f1=span_f1(*lists),
            floors={"most frequent": {"accuracy": _share(self._often[words] == true, there)}},
            steps=int(there.sum()),
            parameters=sum(p.numel() for p in self.model_.parameters()),
            seconds=time.perf_counter() - began,
        )

    def _remembered(self) -> dict[str, Tensor]:
        return {"often": self._often}

    def _about(self) -> dict[str, Any]:
        return {} if self._unit is None else {"unit": self._unit}

    def _remember(self, about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        self._often, self._unit = tensors["often"], about.get("unit")


def _target(sequences: Sequences) -> Field:
    """Raises InputError if there is none of tags."""
    targets = sequences.of_role("target")
    if not targets or targets[0].kind != "category" or targets[0].whole:
        raise InputError("X has no tags; expected a target of categories with a value at each step")
    return targets[0]


def _vocabulary(fields: Sequence[Field]) -> Any:
    """Of the tags."""
    return next(field.vocabulary for field in fields if field.role == "target")


def _most_frequent(sequences: Sequences, target: Field) -> Tensor:
    """[words + 1] int64: the tag that each word has most often, the last that of words which are not known; without
    words one tag."""
    tags = sequences.values[target.name]
    word = sequences.fields.get("word")
    of = sequences.values["word"] if word is not None else torch.zeros_like(tags)
    count = 1 if word is None or word.vocabulary is None else word.vocabulary.unknown + 1
    seen: list[Counter[int]] = [Counter() for _ in range(count)]
    for place, tag in zip(of.tolist(), tags.tolist(), strict=True):
        if tag >= 0:
            seen[place][tag] += 1
    overall = int(torch.bincount(tags[tags >= 0]).argmax()) if (tags >= 0).any() else -1
    return torch.tensor([counter.most_common(1)[0][0] if counter else overall for counter in seen])


def _share(right: Tensor, counted: Tensor) -> float:
    return float(right[counted].double().mean())
