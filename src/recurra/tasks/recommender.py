"""What somebody takes next, from all that was taken before."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from recurra import options
from recurra.data.frames import from_events
from recurra.data.reading import Batch, Carried
from recurra.data.sequences import Field, Sequences
from recurra.data.vocabulary import Vocabulary
from recurra.errors import InputError
from recurra.metrics.ranking import hit_rate, ndcg, ranks
from recurra.nn.linear import Linear
from recurra.state import State
from recurra.tasks.estimator import Dice, Estimator
from recurra.tasks.heads.categorical import Categorical
from recurra.tasks.inlet import Inlet
from recurra.tasks.model import Model
from recurra.tasks.news import foreseen
from recurra.tasks.passing import Pass, read_of
from recurra.tasks.pools import pool
from recurra.tasks.standing import GoesOn
from recurra.training.carry import carried
from recurra.training.fitting import Progress, fit


class Recommender(GoesOn):
    """The next item of each user. Events are a table of a row for each user, item and time, or `Sequences` of items.

    Args:
        pattern: which recurrence each block holds.
        user, item, time: names of the columns, as in `recurra.data.frames.from_events`.
        again: whether items that a user has had are recommended again.
        smoothing: this share of each next item is dealt to all items alike while training.
        width, mlp, dropout, layers: of the `Backbone`.
        steps, seconds, learning_rate, weight_decay: of training, as in `recurra.training.fitting.Schedule`.
        batch, window: streams side by side, and the events that gradients flow through.
        seed: of all that is random.
    """

    task = "recommend"

    def __init__(
        self,
        pattern: str = "gru",
        *,
        user: str = "user_id",
        item: str = "item_id",
        time: str | None = None,
        again: bool = False,
        smoothing: float = 0.0,
        width: int = 64,
        mlp: int | None = None,
        dropout: float = 0.3,
        layers: Mapping[str, Mapping[str, Any]] | None = None,
        steps: int = 1000,
        seconds: float | None = None,
        batch: int = 32,
        window: int = 50,
        learning_rate: float = 4e-3,
        weight_decay: float = 0.05,
        seed: int = 0,
    ):
        self.pattern, self.user, self.item, self.time = pattern, user, item, time
        self.again, self.smoothing = again, smoothing
        self.width, self.mlp, self.dropout, self.layers = width, mlp, dropout, layers
        self.steps, self.seconds, self.batch, self.window = steps, seconds, batch, window
        self.learning_rate, self.weight_decay, self.seed = learning_rate, weight_decay, seed

    def fit(
        self,
        events: Any,
        progress: Progress | None = None,
        folder: str | Path | None = None,
        resume: bool = False,
        start: Estimator | None = None,
    ) -> Self:
        """Learn from events, and stand at the last of each user.

        Args:
            folder: keeps checkpoints, from which `resume` goes on where a fit was killed, to the same weights.
            start: an estimator of any task and of the same width, with whose inlet and backbone this one begins, as
                `recurra.tasks.transfer.take_over` has it.

        Raises:
            InputError: a setting is out of range, or a column is missing or of the wrong kind.
            RecurraError: the loss became no number.
        """
        schedule = self._schedule()
        options.flag("again", self.again)
        sequences = self._read(events)
        field = _item(sequences)
        streams = max(
            1, min(options.count("batch", self.batch), sequences.steps // options.count("window", self.window))
        )
        with Dice(self.seed):
            model = self._build([field], {}, {})
            reading = Carried(sequences, streams, self.window, self.seed)

            def loss(batch: Batch, state: State | None) -> tuple[Tensor, State]:
                ragged = batch.lengths if (batch.lengths < batch.rows.shape[1]).any() else None
                raw, after = model(batch.columns, state, resets=batch.resets, lengths=ragged)
                following = sequences.ahead(field.name, batch.rows, 1)[..., 0]
                return model.head.loss(raw, following), carried(model.backbone, after, len(raw))

            kept = self._kept(folder, resume, sequences, *self._begin(model, [field], start))
            fit(model, reading, loss, schedule, progress, kept)
        self.model_, self.fields_ = model, [field]
        self._often = torch.bincount(sequences.values[field.name], minlength=_names(field).unknown + 1)[:-1]
        self._stand_at(sequences.ids, Pass(model, sequences).run())
        self._had = _items(sequences)
        return self

    def _read(self, events: Any, like: Sequence[Field] | None = None) -> Sequences:
        if isinstance(events, Sequences):
            return events
        return from_events(events, user=self.user, item=self.item, time=self.time, like=like)

    def _build(self, fields: Sequence[Field], about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Model:  # noqa: ARG002
        head = Categorical(_names(fields[0]).unknown, self.smoothing)
        outlook = Linear(self.width, head.size)
        return Model(Inlet([], fields, self.width), self._backbone(), pool("each", self.width), outlook, head)

    def predict(self, user: str, k: int = 10) -> list[str]:
        """The `k` items that a user most likely takes next, the likeliest first.

        Raises InputError if nothing was fitted, or nothing was read of this user.
        """
        self._expect_fitted()
        options.count("k", k)
        if user not in self._standing.ids:
            raise InputError(f"user is {options.shown(user)}; expected one that was read of, by fit or update")
        number = self._standing.ids.index(user)
        scores = self._scores(read_of(self._standing.place.rows([number])).y[0], [self._had[number]])[0]
        best = scores.topk(min(k, int((scores > -torch.inf).sum()))).indices
        return [name for name in _names(self.fields_[0]).decode(best) if name is not None]

    @torch.no_grad()
    def _scores(self, y: Tensor, had: Sequence[Tensor]) -> Tensor:
        """[n, items], from what was read [n, D]."""
        return self._left(self.model_.outlook(y), had)

    def _left(self, scores: Tensor, had: Sequence[Tensor]) -> Tensor:
        """Scores [n, items] with minus infinity for what a user has had, unless that comes again."""
        if not self.again:
            for row, items in zip(scores, had, strict=True):
                row[items] = -torch.inf
        return scores

    def update(self, events: Any, learn: bool = False) -> None:
        """Take new events, of users old or new, at the cost of one step each: a table, or one (user, item).

        Args:
            learn: also take one step of gradient descent, as small as those that `fit` began with, on what these
                events say should have been expected. Gradients flow through the events that are given together.

        Raises:
            InputError: columns are missing, or an item was never seen while fitting; nothing is then changed.
            RecurraError: the loss of these events is not finite, likewise.
        """
        self._expect_fitted()
        if isinstance(events, tuple):
            if len(events) != 2 or not all(isinstance(part, str) for part in events):
                raise InputError(f"events is {options.shown(events)}; expected a table, or (user, item)")
            one = {self.user: [events[0]], self.item: [events[1]]}
            sequences = from_events(one, user=self.user, item=self.item, like=self.fields_)
        else:
            sequences = self._read(events, self.fields_)
        old = self._standing.numbers(sequences.ids)
        begin = self._standing.begin(self.model_, old)
        if options.flag("learn", learn):
            self._learner.slope(self._missed(sequences, begin, torch.tensor(old) >= 0))
        order = self._standing.go_on(sequences.ids, old, Pass(self.model_, sequences, begin).run())
        both = self._had + _items(sequences)
        more = {before: [self._had[before]] for before in old if before >= 0}
        self._had = [torch.cat([*more.get(place, []), both[number]]) for place, number in enumerate(order)]
        if learn:
            self._learner.step()

    def _missed(self, sequences: Sequences, begin: State, known: Tensor) -> Tensor:
        """The loss of what was expected before each event."""
        rows, read = foreseen(self.model_, sequences, begin)
        came = sequences.take(_item(sequences).name, rows)
        came[~known, 0] = -1  # nothing was read before the first event of a new user
        return self.model_.head.loss(self.model_.outlook(read.y), came)

    @torch.no_grad()
    def evaluate(self, events: Any, *, k: int = 10) -> dict[str, Any]:
        """Of the last item of each user, predicted from those before it, among all items: how often it is among the
        first `k`, and NDCG; beside the most popular items.

        Raises InputError if no user has two events, or an item was never seen while fitting.
        """
        began = time.perf_counter()
        self._expect_fitted()
        sequences = self._read(events, self.fields_)
        whole = sequences.select((sequences.lengths > 1).nonzero()[:, 0])
        if not len(whole):
            raise InputError("no user has two events; expected one to predict from, and one to predict")
        before, last = whole.cut(whole.lengths - 1)
        y = read_of(Pass(self.model_, before).run()).y[:, 0]
        actual, had = last.values[_item(last).name], _items(before)
        popular = self._left(self._often.to(y.dtype).repeat(len(whole), 1), had)
        ours, theirs = (ranks(scores, actual) for scores in (self._scores(y, had), popular))
        return {
            "hit_rate": hit_rate(ours, k),
            "ndcg": ndcg(ours, k),
            "floors": {"popular": {"hit_rate": hit_rate(theirs, k), "ndcg": ndcg(theirs, k)}},
            "k": k,
            "users": len(whole),
            "parameters": sum(p.numel() for p in self.model_.parameters()),
            "seconds": time.perf_counter() - began,
        }

    def _remembered(self) -> dict[str, Tensor]:
        sizes = torch.tensor([len(items) for items in self._had])
        own = {"often": self._often, "had": torch.cat(self._had), "sizes": sizes}
        return super()._remembered() | own

    def _remember(self, about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        super()._remember(about, tensors)
        self._often, self._had = tensors["often"], list(tensors["had"].split(tensors["sizes"].tolist()))


def _item(sequences: Sequences) -> Field:
    """Raises InputError if there is no target of categories at each step."""
    fields = [field for field in sequences.of_role("target") if field.kind == "category" and not field.whole]
    if not fields:
        raise InputError("events have no items; expected a target of categories, one for each event")
    return fields[0]


def _names(field: Field) -> Vocabulary:
    assert field.vocabulary is not None
    return field.vocabulary


def _items(sequences: Sequences) -> list[Tensor]:
    """Of each user."""
    return list(sequences.values[_item(sequences).name].split(sequences.lengths.tolist()))
