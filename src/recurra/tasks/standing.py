"""Where a model stands in each of some series, and how it goes on from there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from recurra.state import State
from recurra.tasks.estimator import Estimator
from recurra.tasks.learning import Learner
from recurra.tasks.model import Model
from recurra.tasks.passing import start, together


class Standing:
    """The place behind the last step of each series.

    Args:
        ids: names of the series.
        place: of as many sequences.
    """

    def __init__(self, ids: Sequence[str], place: State):
        self.ids, self.place = list(ids), place

    def numbers(self, ids: Sequence[str]) -> list[int]:
        """Which of these series each is, -1 one that is new."""
        places = {name: number for number, name in enumerate(self.ids)}
        return [places.get(name, -1) for name in ids]

    def begin(self, model: Model, old: Sequence[int]) -> State:
        """The place that each begins at, by its number."""
        fresh = start(model, 1)
        return together([self.place.rows([n]) if n >= 0 else fresh for n in old])

    def go_on(self, ids: Sequence[str], old: Sequence[int], end: State) -> list[int]:
        """Stand at the end of new rows: of old series where those stood, of new ones behind them. Gives the order in
        which others than places are to be taken of [what was known, what came]."""
        known = len(self.ids)
        order = list(range(known))
        for n, before in enumerate(old):
            if before >= 0:
                order[before] = known + n
            else:
                order.append(known + n)
                self.ids.append(ids[n])
        self.place = together([self.place, end]).rows(order)
        return order


class GoesOn(Estimator):
    """An estimator that stands behind the last step of each series, takes new rows from there, and may learn from
    them."""

    model_: Model
    _standing: Standing
    _moments = State()
    _learns: Learner | None = None

    def _stand_at(self, ids: Sequence[str], place: State) -> None:
        """Stand there, and have learned nothing from updates."""
        self._standing, self._moments, self._learns = Standing(ids, place), State(), None

    @property
    def _learner(self) -> Learner:
        """What learns from updates: made when it is first asked for, with what a file remembers of it."""
        if self._learns is None:
            self._learns = Learner(self.model_, self._schedule(), self._moments)
        return self._learns

    def _about(self) -> dict[str, Any]:
        return {"ids": self._standing.ids}

    def _remembered(self) -> dict[str, Tensor]:
        moments = self._moments if self._learns is None else self._learns.moments()
        return self._standing.place.prefixed("place") | moments.prefixed("moments")

    def _remember(self, about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        self._stand_at(about["ids"], State(tensors).under("place"))
        self._moments = State(tensors).under("moments")
