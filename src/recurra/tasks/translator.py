"""From sequences of one kind to those of another: words to sounds, sentences to sentences."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from recurra import options
from recurra.data.reading import Batch, Padded
from recurra.data.sequences import Field, Sequences
from recurra.data.words import Pairs, from_pairs
from recurra.errors import InputError
from recurra.metrics.strings import bleu, error_rate, exact_error
from recurra.models.backbone import Backbone
from recurra.models.pattern import parse, side_by_side
from recurra.state import State
from recurra.tasks.beam import beam
from recurra.tasks.estimator import Dice, Estimator
from recurra.tasks.heads.categorical import Categorical
from recurra.tasks.translation import Translation
from recurra.training.fitting import Progress, fit

TOGETHER = 64
"""Sources translated side by side."""


class Translator(Estimator):
    """Learns pairs of sequences, and writes the target of a new source.

    Pairs are (source, target), each a list of tokens, or a text, which is taken letter by letter.

    Args:
        pattern: which recurrence each block of the encoder holds.
        decoder: of the decoder; by default the same.
        bidirectional: the encoder reads in both directions.
        smoothing: this share of each token is dealt to all tokens alike while training.
        width, mlp, dropout, layers: of both `Backbone`s.
        steps, seconds, learning_rate, weight_decay: of training, as in `recurra.training.fitting.Schedule`.
        batch: pairs in one update.
        seed: of all that is random.
    """

    task = "translate"
    model_: Translation  # type: ignore[assignment]

    def __init__(
        self,
        pattern: str = "gru",
        decoder: str | None = None,
        *,
        bidirectional: bool = True,
        smoothing: float = 0.1,
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
        self.pattern, self.decoder, self.bidirectional, self.smoothing = pattern, decoder, bidirectional, smoothing
        self.width, self.mlp, self.dropout, self.layers = width, mlp, dropout, layers
        self.steps, self.seconds, self.batch = steps, seconds, batch
        self.learning_rate, self.weight_decay, self.seed = learning_rate, weight_decay, seed

    def fit(
        self,
        pairs: Any,
        progress: Progress | None = None,
        folder: str | Path | None = None,
        resume: bool = False,
    ) -> Self:
        """Learn from pairs.

        Args:
            folder: keeps checkpoints, from which `resume` goes on where a fit was killed, to the same weights.

        Raises:
            InputError: a setting is out of range, or a pair is none: the message names it.
            RecurraError: the loss became no number.
        """
        schedule = self._schedule()
        pairs = pairs if isinstance(pairs, Pairs) else from_pairs(pairs)
        fields = [_token(pairs.source), _token(pairs.target)]
        with Dice(self.seed):
            model = self._build(fields, {}, {})
            head = Categorical(model.end + 1, self.smoothing)
            reading = Padded(pairs.source, options.count("batch", self.batch), self.seed)

            def loss(batch: Batch, _: State | None) -> tuple[Tensor, None]:
                said, lengths = _targets(model, pairs.target, pairs.source.sequence_of[batch.rows[:, 0]])
                raw = model(batch.columns[fields[0].name], batch.lengths, said[:, :-1].clamp(min=0), lengths)
                return head.loss(raw, said[:, 1:]), None

            kept = self._kept(folder, resume, pairs.source, pairs.target)
            fit(model, reading, loss, schedule, progress, kept)
        self.model_, self.fields_ = model, fields
        self._longest = int((pairs.target.lengths.double() / pairs.source.lengths.clamp(min=1)).max().ceil())
        return self

    def _build(self, fields: Sequence[Field], about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Any:  # noqa: ARG002
        source, target = (field.vocabulary for field in fields)
        assert source is not None
        assert target is not None
        both = options.flag("bidirectional", self.bidirectional)
        encoder = self._side(self.pattern, both)
        decoder = self._side(self.pattern if self.decoder is None else self.decoder, False)
        return Translation(source.unknown, target.unknown, encoder, decoder, self.dropout)

    def _side(self, pattern: str, bidirectional: bool) -> Backbone:
        known = {one for name in parse(pattern) for one in side_by_side(name)}
        layers = {name: own for name, own in (self.layers or {}).items() if name in known}
        return Backbone(
            self.width, pattern, mlp=self.mlp, dropout=self.dropout, layers=layers, bidirectional=bidirectional
        )

    def predict(
        self, sources: Any, *, beam: int = 4, length_penalty: float = 0.0, coverage: float = 0.0
    ) -> list[list[str]]:
        """The target of each source, a list of tokens.

        Args:
            beam: how many beginnings are kept at each step; 1 takes the likeliest token each time.
            length_penalty, coverage: as in `recurra.tasks.beam.beam`.

        Raises InputError if nothing was fitted, a source is none, or an argument is out of range.
        """
        self._expect_fitted()
        if not isinstance(sources, Sequences):
            target = self.fields_[1].vocabulary
            assert target is not None
            something = list(target.names[:1])
            sources = from_pairs(
                [(source, something) for source in sources], like=([self.fields_[0]], [self.fields_[1]])
            ).source
        how = {"width": beam, "length_penalty": length_penalty, "coverage": coverage}
        found: list[list[str]] = [[] for _ in range(len(sources))]
        for batch in Padded(sources, TOGETHER, None):
            which = sources.sequence_of[batch.rows[:, 0]].tolist()
            for number, tokens in zip(which, self._search(batch, how), strict=True):
                found[number] = tokens
        return found

    @torch.no_grad()
    def _search(self, batch: Batch, how: Mapping[str, Any]) -> list[list[str]]:
        model, target = self.model_, self.fields_[1].vocabulary
        assert target is not None
        memory = model.encode(batch.columns[self.fields_[0].name], batch.lengths)

        def step(last: Tensor, state: State, which: Tensor) -> tuple[Tensor, State, Tensor]:
            raw, after, looked = model.decode(last[:, None], memory.rows(which), state)
            return raw[:, 0].log_softmax(-1), after, looked[:, 0]

        longest = self._longest * int(batch.lengths.max()) + 5
        start = model.decoder.initial_state(len(batch.rows))
        best = beam(step, start, model.begin, model.end, longest=longest, **how)
        return [
            [str(target.names[token]) for token in tokens[:length]]
            for tokens, length in zip(best.tokens.tolist(), best.lengths.tolist(), strict=True)
        ]

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


def _targets(model: Translation, target: Sequences, which: Tensor) -> tuple[Tensor, Tensor]:
    """[B, T + 2] int64: targets between begin and end, then -1; and how many steps of the decoder each has, [B]."""
    field = _token(target)
    whole, offsets = target.values[field.name], target.offsets
    edge = [whole.new_tensor([token]) for token in (model.begin, model.end)]
    rows = [torch.cat([edge[0], whole[offsets[n] : offsets[n + 1]], edge[1]]) for n in which.tolist()]
    padded = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1)
    return padded, target.lengths[which] + 1


def _listed(sequences: Sequences) -> list[list[Any]]:
    """The tokens of each."""
    field, ends = _token(sequences), sequences.offsets.tolist()
    assert field.vocabulary is not None
    names = field.vocabulary.decode(sequences.values[field.name])
    return [names[a:b] for a, b in itertools.pairwise(ends)]
