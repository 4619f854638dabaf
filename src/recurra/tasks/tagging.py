"""One sequence that comes step by step, and the tags of what has come."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from recurra.data.sequences import Field
from recurra.data.times import Frequency
from recurra.data.words import from_tokens
from recurra.tasks.gaps import GAP, gap_of
from recurra.tasks.heads.crf import CRF
from recurra.tasks.model import Model
from recurra.tasks.onerow import OneRow, value_of


class Viterbi:
    """The likeliest classes of a conditional random field while its steps come. What all beginnings that are still in
    question have in common is settled: only what comes after that is traced back again."""

    def __init__(self, head: CRF):
        self._head = head
        self._settled: list[int] = []
        self._back: list[Tensor] = []
        """Of each step that is not settled but the first: where the best way into each class is from."""
        self._scores: Tensor | None = None

    def update(self, raw: Tensor) -> None:
        """One step more, its scores [classes]."""
        if self._scores is None:
            self._scores = self._head.first + raw
            return
        best, back = (self._scores[:, None] + self._head.between).max(0)
        self._scores = best + raw
        self._back.append(back)
        self._settle()

    def _settle(self) -> None:
        ways = torch.arange(len(self._back[-1]))
        for place in range(len(self._back) - 1, -1, -1):
            ways = self._back[place][ways]
            if (ways == ways[0]).all():  # every way is through this class, at the step before `place`
                self._settled += self._traced(int(ways[0]), place)
                self._back = self._back[place + 1 :]
                return

    def _traced(self, last: int, steps: int) -> list[int]:
        """The classes of that many steps behind the settled ones, and the last."""
        found = [last]
        for back in reversed(self._back[:steps]):
            found.append(int(back[found[-1]]))
        return found[::-1]

    def now(self) -> list[int]:
        """The likeliest classes of what has come, if it ends here."""
        if self._scores is None:
            return []
        last = int((self._scores + self._head.last).argmax())
        return self._settled + self._traced(last, len(self._back))


class Tagging:
    """What `Tagger.stream` gives: tags of a sequence that goes on, in one direction.

    Args:
        fields: of the columns that were fitted on, the target's among them.
        unit: of the time between steps, where that is read.
    """

    def __init__(self, model: Model, fields: list[Field], unit: float | None = None):
        self._model, self._fields = model, fields
        self._vocabulary = next(field.vocabulary for field in fields if field.role == "target")
        self._viterbi = Viterbi(model.head) if isinstance(model.head, CRF) else None
        self._codes: list[int] = []
        self.state = model.initial_state(1)
        self._unit, self._end = unit, -math.inf
        self._row = OneRow(model, fields, None, Frequency(0, 1.0))

    @property
    def tags(self) -> list[str | None]:
        """Of all steps so far, as if the sequence ended here: those that `predict` would give it. With a conditional
        random field, what follows may change the last ones."""
        codes = self._codes if self._viterbi is None else self._viterbi.now()
        assert self._vocabulary is not None
        return self._vocabulary.decode(torch.tensor(codes, dtype=torch.int64))

    @torch.no_grad()
    def update(self, step: Any) -> str | None:
        """The tag of one more step: a word; or, where there are other columns, a mapping from their names to values.

        Raises InputError, and nothing has happened, if it is none, or no later than that before.
        """
        now = self._end
        if self._unit is not None:
            now = self._row.later(step, self._end)
            step = {**step, GAP: gap_of(self._end, now, self._unit)}
        raw, self.state = self._model(self._columns(step), self.state)
        self._end = now
        if self._viterbi is None:
            self._codes.append(int(self._model.head.predict(raw)[0, 0]))
        else:
            self._viterbi.update(raw[0, 0])
        return self.tags[-1]

    def _columns(self, step: Any) -> dict[str, Tensor]:
        """[1, 1, ...] each."""
        reads = self._model.inlet.reads
        if "letters" not in reads:
            fields = [field for field in self._fields if field.name in reads]
            return {f.name: torch.as_tensor(value_of(f, step, reads)).view(1, 1, *f.width) for f in fields}
        sequences = from_tokens([[step]], like=self._fields, where=["step"])
        rows = torch.zeros(1, 1, dtype=torch.int64)
        return {name: sequences.take(name, rows) for name in reads}
