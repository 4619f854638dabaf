"""From sequences of one kind to those of another: words to sounds, sentences to sentences."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from recurra import options
from recurra.data.reading import Batch, Padded
from recurra.data.sequences import Field, Sequences
from recurra.data.vocabulary import Vocabulary
from recurra.data.words import Pairs, from_pairs
from recurra.errors import InputError
from recurra.metrics.strings import bleu, error_rate, exact_error
from recurra.models.backbone import Backbone
from recurra.models.language_model import LanguageModel
from recurra.models.pattern import all_named, parse
from recurra.options import shown
from recurra.state import State
from recurra.tasks.beam import beam
from recurra.tasks.estimator import Dice, Estimator
from recurra.tasks.feeding import feed
from recurra.tasks.fusion import Prior, checked, fused, language
from recurra.tasks.heads.ctc import CTC
from recurra.tasks.prefix_beam import searched
from recurra.tasks.teaching import Teaching
from recurra.tasks.transcript import Transcript
from recurra.tasks.transcription import Transcription
from recurra.tasks.transfer import take_over_sides
from recurra.tasks.translation import Translation
from recurra.training.fitting import Progress, fit

HEADS = ("attention", "ctc")
TOGETHER = 64
"""Sources translated side by side."""


class Translator(Estimator):
    """Learns pairs of sequences, and writes the target of a new source.

    Pairs are (source, target), each a list of tokens, or a text, which is taken letter by letter.

    Args:
        pattern: which recurrence each block of the encoder holds.
        decoder: of the decoder; by default the same.
        head: "attention", a decoder that looks at the source; "ctc", each step of the encoder says what it hears, so
            that a source can be answered while it comes: for targets in the order of their sources.
        bidirectional: the encoder reads in both directions.
        smoothing: this share of each token is dealt to all tokens alike while training.
        copy: tokens may be taken from the source, by name.
        guide: how much it counts in the loss that looks are far from the diagonal.
        ctc: the share in the loss of a CTC head beside the decoder.
        frames: steps of a CTC head for each of the source; a target is no longer than these.
        feed: what the decoder reads while training: "truth"; "own", what it said itself; or (u, v), u tokens of truth
            and v of its own in turn.
        width, mlp, dropout, layers: of both `Backbone`s.
        steps, seconds, learning_rate, weight_decay: of training, as in `recurra.training.fitting.Schedule`.
        batch: pairs in one update.
        seed: of all that is random.
    """

    task = "translate"
    model_: Translation | Transcription  # type: ignore[assignment]

    def __init__(
        self,
        pattern: str = "gru",
        decoder: str | None = None,
        *,
        head: str = "attention",
        bidirectional: bool = True,
        smoothing: float = 0.1,
        copy: bool = False,
        guide: float = 0.0,
        ctc: float = 0.0,
        frames: int = 2,
        feed: Any = "truth",
        width: int = 128,
        mlp: int | None = None,
        dropout: float = 0.2,
        layers: Mapping[str, Mapping[str, Any]] | None = None,
        steps: int = 2000,
        seconds: float | None = None,
        batch: int = 64,
        learning_rate: float = 4e-3,
        weight_decay: float = 0.05,
        seed: int = 0,
    ):
        self.pattern, self.decoder, self.head, self.bidirectional = pattern, decoder, head, bidirectional
        self.smoothing, self.copy, self.guide, self.ctc, self.frames, self.feed = (
            smoothing, copy, guide, ctc, frames, feed,
        )  # fmt: skip
        self.width, self.mlp, self.dropout, self.layers = width, mlp, dropout, layers
        self.steps, self.seconds, self.batch = steps, seconds, batch
        self.learning_rate, self.weight_decay, self.seed = learning_rate, weight_decay, seed

    def fit(
        self,
        pairs: Any,
        progress: Progress | None = None,
        folder: str | Path | None = None,
        resume: bool = False,
        start: Estimator | None = None,
    ) -> Self:
        """Learn from pairs.

        Args:
            folder: keeps checkpoints, from which `resume` goes on where a fit was killed, to the same weights.
            start: another translator of the same width: what both have alike is what this one begins with, of tokens
                the embeddings of those that both know.

        Raises:
            InputError: a setting is out of range, or a pair is none: the message names it.
            RecurraError: the loss became no number.
        """
        schedule, teaching = self._schedule(), self._teaching()
        pairs = pairs if isinstance(pairs, Pairs) else from_pairs(pairs)
        fields = [_token(pairs.source), _token(pairs.target)]
        self._expect_room(pairs)
        with Dice(self.seed):
            model = self._build(fields, {}, {})
            reading = Padded(pairs.source, options.count("batch", self.batch), self.seed)

            def loss(batch: Batch, _: State | None) -> tuple[Tensor, None]:
                target = targets_of(pairs.target, pairs.source.sequence_of[batch.rows[:, 0]])
                source = batch.columns[fields[0].name]
                if isinstance(model, Transcription):
                    return model.loss(source, batch.lengths, target), None
                return teaching.loss(model, source, batch.lengths, target), None

            begun = self._begin(model, fields, start)
            kept = self._kept(folder, resume, pairs.source, pairs.target, *begun)
            fit(model, reading, loss, schedule, progress, kept)
        self.model_, self.fields_ = model, fields
        self._longest = int((pairs.target.lengths.double() / pairs.source.lengths.clamp(min=1)).max().ceil())
        return self

    def _take_over(self, model: Any, fields: Sequence[Field], start: Estimator) -> None:
        if not isinstance(start, Translator):
            raise InputError(f"start is a {type(start).__name__}; a Translator begins with another one")
        take_over_sides(model, start.model_, fields, start.fields_)

    def _teaching(self) -> Teaching:
        """What the loss is made of. Raises InputError if a setting is out of range, or is none of the head's."""
        smoothing = options.number("smoothing", self.smoothing, 0, 1)
        guide = options.number("guide", self.guide, 0)
        beside = options.number("ctc", self.ctc, 0, 1)
        options.flag("copy", self.copy)
        options.count("frames", self.frames)
        if options.choice("head", self.head, HEADS) == "ctc":
            own = {"decoder": self.decoder, "copy": self.copy, "guide": self.guide, "ctc": self.ctc}
            if strange := [name for name, value in own.items() if value]:
                raise InputError(f"{strange[0]} is {own[strange[0]]!r}, and the head is 'ctc', which has no decoder")
        return Teaching(smoothing, guide, beside, feed(self.feed))

    def _expect_room(self, pairs: Pairs) -> None:
        """Raises InputError, naming the pair, if a CTC head has fewer steps than the target needs."""
        if self.head != "ctc":
            return
        target = targets_of(pairs.target, torch.arange(len(pairs)))
        fits = CTC(int(target.max()) + 1).fits(target, pairs.source.lengths * self.frames)
        if not fits.all():
            n = int((~fits).nonzero()[0])
            said, read = int(pairs.target.lengths[n]), int(pairs.source.lengths[n])
            raise InputError(
                f"pairs[{n}] has {said} tokens for {read} of the source, more than a CTC head says in "
                f"{read * self.frames} steps (equal neighbours need one between them): raise frames, now {self.frames}"
            )

    def _build(self, fields: Sequence[Field], about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Any:  # noqa: ARG002
        source, target = (field.vocabulary for field in fields)
        assert source is not None
        assert target is not None
        encoder = self._side(self.pattern, options.flag("bidirectional", self.bidirectional))
        if self.head == "ctc":
            return Transcription(source.unknown, target.unknown, encoder, self.frames, self.dropout)
        decoder = self._side(self.pattern if self.decoder is None else self.decoder, False)
        copies = None
        if self.copy:
            own = target.encode([*source.names, None])
            copies = torch.where(own == target.unknown, -1, own)
        frames = self.frames if self.ctc else 0
        return Translation(source.unknown, target.unknown, encoder, decoder, self.dropout, copies, frames)

    def _side(self, pattern: str, bidirectional: bool) -> Backbone:
        known = all_named(parse(pattern))
        layers = {name: own for name, own in (self.layers or {}).items() if name in known}
        return Backbone(
            self.width, pattern, mlp=self.mlp, dropout=self.dropout, layers=layers, bidirectional=bidirectional
        )

    def language(
        self, texts: Any, pattern: str = "gru", *, width: int = 64, steps: int = 1000, progress: Progress | None = None
    ) -> LanguageModel:
        """A language model of targets, for `predict(fusion=...)`: it may learn from texts whose sources nobody knows.

        Args:
            texts: lists of tokens, or texts, as targets are; or `Sequences` of tokens.
            pattern, width, steps: of its blocks and its training; all else is as for this translator.

        Raises InputError if nothing was fitted, a text is none, or it holds a token that no target had.
        """
        self._expect_fitted()
        schedule = replace(self._schedule(), steps=options.count("steps", steps), seconds=None)
        texts = texts if isinstance(texts, Sequences) else self._side_of(texts, 1)
        end = self._target.unknown
        if (texts.values[_token(texts).name] >= end).any():
            raise InputError("texts hold a token that no target had while fitting; expected known ones")
        with Dice(self.seed):
            model = LanguageModel(end + 2, width, pattern, dropout=self.dropout)
            return language(texts, model, end + 1, end, self.batch, schedule, self.seed, progress)

    def predict(
        self,
        sources: Any,
        *,
        beam: int = 4,
        length_penalty: float = 0.0,
        coverage: float = 0.0,
        fusion: Sequence[Prior] = (),
    ) -> list[list[str]]:
        """The target of each source, a list of tokens.

        Args:
            beam: how many beginnings are kept at each step; 1 takes the likeliest token each time.
            length_penalty, coverage: as in `recurra.tasks.beam.beam`; not with a CTC head.
            fusion: language models of targets, as `language` makes them, each with its share: (model, 0.3).

        Raises InputError if nothing was fitted, a source is none, or an argument is out of range.
        """
        self._expect_fitted()
        priors = checked(fusion, self._target.unknown + 2)
        if self.head == "ctc" and (length_penalty or coverage or priors):
            raise InputError("length_penalty, coverage and fusion are of decoders; the head is 'ctc', which has none")
        options.count("beam", beam)
        if isinstance(sources, str):
            raise InputError(f"sources is {shown(sources)}; expected a list of texts, or of lists of tokens")
        sources = sources if isinstance(sources, Sequences) else self._side_of(sources, 0)
        how = {"width": beam, "length_penalty": length_penalty, "coverage": coverage}
        found: list[list[str]] = [[] for _ in range(len(sources))]
        for batch in Padded(sources, TOGETHER, None):
            which = sources.sequence_of[batch.rows[:, 0]].tolist()
            said = self._heard(batch, beam) if self.head == "ctc" else self._search(batch, how, priors)
            for number, tokens in zip(which, said, strict=True):
                found[number] = [str(self._target.names[token]) for token in tokens]
        return found

    def stream(self, *, beam: int = 8) -> Transcript:
        """A source that comes token by token, and its target so far: with a CTC head, in one direction.

        Raises InputError with another head, or if this reads in both directions.
        """
        self._expect_fitted()
        model = self.model_
        if not isinstance(model, Transcription):
            raise InputError("a decoder looks at the whole source, which a stream does not have; fit with head='ctc'")
        if model.encoder.bidirectional:
            raise InputError("this reads in both directions, which needs the whole source; set bidirectional=False")
        return Transcript(model, self.fields_[0], self.fields_[1], beam)

    @property
    def _target(self) -> Vocabulary:
        """Of targets."""
        found = self.fields_[1].vocabulary
        assert found is not None
        return found

    def _side_of(self, texts: Any, side: int) -> Sequences:
        """Texts as sources, 0, or as targets, 1."""
        other = list(self._target.names[:1])
        pairs = [(text, other) if side == 0 else (list(other), text) for text in texts]
        found = from_pairs(pairs, like=([self.fields_[0]], [self.fields_[1]]))
        return (found.source, found.target)[side]

    @torch.no_grad()
    def _heard(self, batch: Batch, width: int) -> list[list[int]]:
        """What a CTC head says of sources."""
        model = self.model_
        assert isinstance(model, Transcription)
        raw, around, _ = model(batch.columns[self.fields_[0].name], batch.lengths)
        if width == 1:
            return [row[row >= 0].tolist() for row in model.frames.head.predict(raw, around)]
        ends = (batch.lengths * self.frames).tolist()
        rows = zip(raw.log_softmax(-1), ends, strict=True)
        return [searched(row[:end], model.frames.head.blank, width) for row, end in rows]

    @torch.no_grad()
    def _search(self, batch: Batch, how: Mapping[str, Any], priors: Sequence[Prior]) -> list[list[int]]:
        """What a decoder says of sources."""
        model = self.model_
        assert isinstance(model, Translation)
        memory = model.encode(batch.columns[self.fields_[0].name], batch.lengths)

        def step(last: Tensor, state: State, which: Tensor) -> tuple[Tensor, State, Tensor]:
            raw, after, looked = model.decode(last[:, None], memory.rows(which), state)
            return raw[:, 0].log_softmax(-1), after, looked[:, 0]

        longest = self._longest * int(batch.lengths.max()) + 5
        start = model.decoder.initial_state(len(batch.rows))
        way, start = fused(step, start, priors) if priors else (step, start)
        best = beam(way, start, model.begin, model.end, longest=longest, **how)
        return [row[:length] for row, length in zip(best.tokens.tolist(), best.lengths.tolist(), strict=True)]

    def evaluate(self, pairs: Any, *, beam: int = 4) -> dict[str, Any]:
        """The share of targets that are not right as a whole, edits for each token, and BLEU; a source that comes
        several times has several right targets.

        Raises InputError as `predict`.
        """
        began = time.perf_counter()
        self._expect_fitted()
        pairs = pairs if isinstance(pairs, Pairs) else from_pairs(pairs, like=([self.fields_[0]], [self.fields_[1]]))
        sources, targets = (_listed(side) for side in (pairs.source, pairs.target))
        answers: dict[tuple[Any, ...], list[list[Any]]] = {}
        for source, target in zip(sources, targets, strict=True):
            answers.setdefault(tuple(source), []).append(target)
        first = {tuple(source): number for number, source in reversed(list(enumerate(sources)))}
        chosen = sorted(first.values())
        said = self.predict(pairs.source.select(chosen), beam=beam)
        expected = [targets[number] for number in chosen]
        return {
            "wrong": exact_error([answers[tuple(sources[number])] for number in chosen], said),
            "edits": error_rate(expected, said),
            "bleu": bleu(expected, said),
            "cases": len(chosen),
            "parameters": sum(p.numel() for p in self.model_.parameters()),
            "seconds": time.perf_counter() - began,
        }

    def _about(self) -> dict[str, Any]:
        return {"longest": self._longest}

    def _remember(self, about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:  # noqa: ARG002
        self._longest = options.count("longest", about["longest"])


def _token(sequences: Sequences) -> Field:
    """The one column of tokens."""
    fields = [field for field in sequences.fields.values() if field.kind == "category"]
    if len(fields) != 1:
        raise InputError(f"pairs have {len(fields)} columns of tokens on one side; expected one")
    return fields[0]


def targets_of(target: Sequences, which: Tensor) -> Tensor:
    """[B, L] int64: the tokens of some targets, behind their end -1."""
    whole, offsets = target.values[_token(target).name], target.offsets
    rows = [whole[offsets[n] : offsets[n + 1]] for n in which.tolist()]
    return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1)


def _listed(sequences: Sequences) -> list[list[Any]]:
    """The tokens of each."""
    field, ends = _token(sequences), sequences.offsets.tolist()
    assert field.vocabulary is not None
    names = field.vocabulary.decode(sequences.values[field.name])
    return [names[a:b] for a, b in itertools.pairwise(ends)]
