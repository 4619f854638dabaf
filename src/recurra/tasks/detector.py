"""What does not fit to what came before."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recurra import options
from recurra.data.sequences import Sequences
from recurra.errors import InputError
from recurra.options import shown
from recurra.tasks import horizon
from recurra.tasks.answers import as_table
from recurra.tasks.estimator import Estimator
from recurra.tasks.forecaster import Forecaster
from recurra.tasks.news import told
from recurra.training.fitting import Progress


class Found(dict[str, Any]):
    """What an evaluation of a detector found, plain data; printed, a few lines."""

    def __str__(self) -> str:
        rows = {"this model": self} | self["floors"]
        lines = [
            f"{name:16} F1 {row['f1']:.4f}, precision {row['precision']:.4f}, recall {row['recall']:.4f}"
            for name, row in rows.items()
        ]
        return "\n".join([*lines, f"{self['found']} of {self['rows']} rows found, {self['true']} labelled"])


class Detector(Forecaster):
    """Finds steps that a forecast of one step did not expect: those more surprising than nearly all of a part of the
    data that was held out while learning.

    If what comes is like what was held out, at most a share of `rate` is found by mistake (conformal prediction, Vovk,
    Gammerman, Shafer, 2005).

    Args:
        rate: of false alarms.
        held: the share of each series, at its end, that the threshold is taken from, and nothing is learned from.
        target, id, time, known, static, past, categories, head, scale, memory, gap, inlet, holidays, width, mlp,
            dropout, layers, steps, seconds, batch, window, learning_rate, weight_decay, seed: as those of `Forecaster`.
    """

    task = "detect"

    def __init__(
        self,
        pattern: str = "gru*2",
        *,
        rate: float = 0.01,
        held: float = 0.25,
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
        width: int = 32,
        mlp: int | None = None,
        dropout: float = 0.1,
        layers: Mapping[str, Mapping[str, Any]] | None = None,
        steps: int = 500,
        seconds: float | None = None,
        batch: int = 16,
        window: int = 64,
        learning_rate: float = 4e-3,
        weight_decay: float = 0.05,
        seed: int = 0,
    ):
        super().__init__(
            pattern, horizon=1, target=target, id=id, time=time, known=known, static=static, past=past,
            categories=categories, head=head, scale=scale, memory=memory, gap=gap, inlet=inlet,
            holidays=holidays, width=width, mlp=mlp, dropout=dropout, layers=layers, steps=steps, seconds=seconds,
            batch=batch, window=window, learning_rate=learning_rate, weight_decay=weight_decay, seed=seed,
        )  # fmt: skip
        self.rate, self.held = rate, held

    def fit(
        self,
        data: Any,
        progress: Progress | None = None,
        folder: str | Path | None = None,
        resume: bool = False,
        start: Estimator | None = None,
    ) -> Self:
        """Learn from the first part of each series, take the threshold from the rest, and stand at its end.

        Args:
            folder: keeps checkpoints, from which `resume` goes on where a fit was killed, to the same weights.
            start: an estimator of any task and of the same width, with whose inlet and backbone this one begins, as
                `recurra.tasks.transfer.take_over` has it.

        Raises:
            InputError: as `Forecaster.fit`; or the rest is too short for such a rate.
            RecurraError: the loss became no number.
        """
        options.number("rate", self.rate, 1e-9, 1)
        options.number("held", self.held, 1e-9, 1)
        sequences = self._whole(data)
        first, rest = sequences.cut((sequences.lengths * (1 - self.held)).long())
        super().fit(first, progress, folder, resume, start)
        surprise = self._surprise(self._take(rest)[1])
        found = surprise[~surprise.isnan()].sort().values
        place = math.ceil((len(found) + 1) * (1 - self.rate)) - 1
        if place >= len(found):
            raise InputError(
                f"{len(found)} steps are held out; a rate of {self.rate} needs {math.ceil(1 / self.rate) - 1} at least:"
                " use more data, a larger rate, or hold out more"
            )
        self.threshold_ = float(found[place])
        return self

    def update(self, rows: Any, learn: bool = False) -> Any:
        """As `Forecaster.update`, with a column `anomaly`: whether a row is more surprising than the threshold, which
        `learn` leaves as it is."""
        self._expect_fitted()
        sequences = self._like(rows)
        expected, surprise = self._take(sequences, learn)
        return as_table(type(rows), self._flagged(sequences, expected, surprise))

    def predict(self, data: Any) -> Any:
        """What `update` would say of these series, read from their beginning; nothing is remembered."""
        self._expect_fitted()
        sequences = self._like(data)
        expected, surprise = self._another()._take(sequences)
        return as_table(type(data), self._flagged(sequences, expected, surprise))

    def evaluate(self, data: Any, labels: Any) -> Found:
        """Precision, recall and their harmonic mean, of what `predict` finds; `labels` are true where there is an
        anomaly, one for each row that `predict` gives, which comes series by series.

        The floor is as many rows as were found: those that are farthest from the row before, in any target.

        Raises InputError if they are not as many, or not numbers.
        """
        sequences = self._like(data)
        found = (self._surprise(self._another()._take(sequences)[1]) > self.threshold_).numpy()
        true = np.asarray(labels)
        if true.dtype.kind not in "biuf" or np.isnan(true.astype(float)).any():
            raise InputError(
                f"labels are {true.dtype} with {shown(true.ravel()[:3].tolist())}; expected 1 or 0, none missing"
            )
        true = true.astype(bool)
        if true.shape != found.shape:
            raise InputError(f"labels are {list(true.shape)}; expected {list(found.shape)}, one for each row")
        jumps = np.zeros_like(found)
        jumps[np.argsort(-_jumps(sequences), kind="stable")[: int(found.sum())]] = True
        about = {"found": int(found.sum()), "true": int(true.sum()), "rows": len(true), "threshold": self.threshold_}
        return Found(**_agreement(found, true), **about, floors={"largest jumps": _agreement(jumps, true)})

    def _surprise(self, each: Tensor) -> Tensor:
        """Of rows, [N], from that of targets [N, targets]; NaN where none is there."""
        none = each.isnan().all(1)
        return torch.where(none, torch.nan, each.nansum(1))

    def _flagged(self, sequences: Sequences, expected: Tensor, surprise: Tensor) -> dict[str, Any]:
        return told(sequences, expected, surprise, self._targets, self.id) | {
            "anomaly": (self._surprise(surprise) > self.threshold_).numpy()
        }

    def _about(self) -> dict[str, Any]:
        return super()._about() | {"threshold": self.threshold_}

    def _remember(self, about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        super()._remember(about, tensors)
        self.threshold_ = about["threshold"]


def _agreement(found: NDArray[np.bool_], true: NDArray[np.bool_]) -> dict[str, float]:
    """Precision, recall and their harmonic mean."""
    right = int((found & true).sum())
    precision, recall = right / max(1, int(found.sum())), right / max(1, int(true.sum()))
    both = precision + recall
    return {"precision": precision, "recall": recall, "f1": 2 * precision * recall / both if both else 0.0}


def _jumps(sequences: Sequences) -> NDArray[np.float64]:
    """[N]: how far each row is from the one before it, in the target where that is farthest; 0 where nothing is."""
    values = horizon.values(sequences).double()
    apart = values.diff(dim=0, prepend=values[:1]).abs()
    apart[sequences.offsets[:-1][sequences.lengths > 0]] = 0
    return apart.nan_to_num(0).amax(1).numpy()
