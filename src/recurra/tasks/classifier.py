"""Which class a sequence is of."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recurra import options
from recurra.errors import InputError
from recurra.metrics.labels import confusion, f1
from recurra.tasks.heads.categorical import Categorical
from recurra.tasks.heads.margin import LDAM, Hinge
from recurra.tasks.labelled import Labelled, given
from recurra.tasks.scikit import expect_classes, expect_finite

LOSSES = ("likelihood", "hinge", "ldam")


class Classified(dict[str, Any]):
    """What an evaluation found, plain data; printed, a few lines."""

    def __str__(self) -> str:
        return (
            f"accuracy {self['accuracy']:.4f} (95 %: {self['interval'][0]:.4f} to {self['interval'][1]:.4f}), macro F1 "
            f"{self['f1']:.4f}, of {self['cases']} cases\nalways the most frequent class: "
            f"{self['floors']['most frequent']['accuracy']:.4f}"
        )


class Classifier(Labelled):
    """The class of each sequence, of any length, and the chances of all classes.

    Args:
        pattern: which recurrence each block holds, such as "gru*2" or "mamba+lstm".
        pool: what of a sequence decides: its "last" step, the "mean" or "max" of what was read, or "attention".
        bidirectional: each block reads in both directions; then nothing streams.
        loss: "likelihood"; or by margins, "hinge", or "ldam", whose margins are the larger the fewer cases a class has.
        smoothing: this share of each label is dealt to all classes alike while training, with a likelihood as the loss.
        balanced: each class counts alike in the loss, however many cases it has.
        scale: of numbers: "fit", as over all data fitted on; "running", of each sequence so far; "none".
        gap: the time since the step before is read as well, in units of the median: for data with a column of times.
        inlet: a part of one's own, a module or a function, that reads the scaled numbers of each step [B, T, channels]
            in place of a linear map, as `recurra.tasks.inlets.own.Own` has it; `load` asks for it again.
        shapes: so many random shapes are looked for in the numbers, and how often each was seen so far is told to the
            head beside what the pool shows, as `recurra.tasks.inlets.shapes.Shapes` has it: for few cases, whose form
            tells them apart.
        crop: up to this share of each sequence is left out at its ends while training, as much and where chance says.
        width, mlp, dropout, layers: of the `Backbone`.
        steps, seconds, learning_rate, weight_decay: of training, as in `recurra.training.fitting.Schedule`.
        batch: sequences in one update.
        seed: of all that is random.
    """

    task = "classify"
    _estimator_type = "classifier"
    classes_: NDArray[Any]

    def __init__(
        self,
        pattern: str = "gru*2",
        *,
        pool: str = "mean",
        bidirectional: bool = False,
        loss: str = "likelihood",
        smoothing: float = 0.1,
        balanced: bool = False,
        scale: str = "fit",
        gap: bool = False,
        inlet: Any = None,
        shapes: int = 0,
        crop: float = 0.0,
        width: int = 64,
        mlp: int | None = None,
        dropout: float = 0.2,
        layers: Mapping[str, Mapping[str, Any]] | None = None,
        steps: int = 500,
        seconds: float | None = None,
        batch: int = 32,
        learning_rate: float = 4e-3,
        weight_decay: float = 0.05,
        seed: int = 0,
    ):
        self.pattern, self.pool, self.bidirectional, self.loss = pattern, pool, bidirectional, loss
        self.smoothing, self.balanced, self.scale = smoothing, balanced, scale
        self.gap, self.inlet, self.shapes, self.crop = gap, inlet, shapes, crop
        self.width, self.mlp, self.dropout, self.layers = width, mlp, dropout, layers
        self.steps, self.seconds, self.batch = steps, seconds, batch
        self.learning_rate, self.weight_decay, self.seed = learning_rate, weight_decay, seed

    def _answers(self, y: Any, fresh: bool) -> Tensor:
        labels = np.asarray(y)
        if labels.ndim != 1:
            raise InputError(f"y is {list(labels.shape)}; expected one label for each of the cases")
        if labels.dtype.kind == "f":
            expect_finite(labels, "a label for each case")
        if labels.dtype.kind == "O" and any(label is None for label in labels.tolist()):
            raise InputError(f"y[{labels.tolist().index(None)}] is None; expected a label for each case")
        expect_classes(labels)
        if fresh:
            self.classes_, codes = np.unique(labels, return_inverse=True)
            self._counts = np.bincount(codes, minlength=len(self.classes_))
            if len(self.classes_) < 2:
                raise InputError(f"y holds one class, {self.classes_.tolist()[0]!r}; expected two at least")
            return torch.from_numpy(codes)
        known = {label: code for code, label in enumerate(self.classes_.tolist())}
        return torch.tensor([known.get(label, -1) for label in labels.tolist()])

    def _head(self) -> Categorical:
        count = len(self.classes_)
        weights = (self._counts.sum() / (count * self._counts)).tolist() if self.balanced else None
        if options.choice("loss", self.loss, LOSSES) == "hinge":
            return Hinge(count, weights=weights)
        if self.loss == "ldam":
            return LDAM(self._counts.tolist(), weights=weights)
        return Categorical(count, self.smoothing, weights)

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """[cases, classes]: the chance of each of `classes_`.

        Raises InputError if nothing was fitted or X has other channels.
        """
        return self._chances(self._said(self._read(X)))

    def predict(self, X: Any) -> NDArray[Any]:
        """[cases]: the likeliest class of each."""
        likeliest = self.predict_proba(X).argmax(1)
        return self.classes_[likeliest]

    def score(self, X: Any, y: Any = None) -> float:
        """The share of cases that are predicted right."""
        return self.evaluate(X, y)["accuracy"]

    def evaluate(self, X: Any, y: Any = None) -> Classified:
        """Accuracy with an interval (Wilson's), F1, the confusion matrix [actual][predicted], and the floor.

        A label never seen while fitting counts as wrong. Raises InputError as `predict_proba`.
        """
        began, sequences = time.perf_counter(), self._read(X)
        answers = self._answers(given(sequences, y, type(self).__name__), fresh=False)
        said = torch.from_numpy(self.predict_proba(sequences).argmax(1))
        right, count = float((answers == said).double().mean()), len(answers)
        known = answers >= 0
        often = int(self._counts.argmax())
        return Classified(
            accuracy=right,
            interval=_wilson(right, count),
            f1=f1(answers, said),
            confusion=confusion(answers[known], said[known], len(self.classes_)).tolist(),
            classes=self.classes_.tolist(),
            floors={"most frequent": {"accuracy": float((answers == often).double().mean())}},
            cases=count,
            parameters=sum(p.numel() for p in self.model_.parameters()),
            seconds=time.perf_counter() - began,
        )

    def _told(self, raw: Tensor) -> NDArray[np.float64]:
        return self._chances(raw)[0]

    def _chances(self, raw: Tensor) -> NDArray[np.float64]:
        return raw.double().softmax(-1).numpy()

    def _about(self) -> dict[str, Any]:
        return super()._about() | {"classes": self.classes_.tolist(), "counts": self._counts.tolist()}

    def _remember(self, about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        super()._remember(about, tensors)
        self.classes_, self._counts = np.array(about["classes"]), np.array(about["counts"])


def _wilson(share: float, count: int) -> Sequence[float]:
    """Between which two shares the true one lies in 95 of 100 cases: Wilson, 1927."""
    z = 1.96
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    off = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return [max(0.0, min(middle - off, share)), max(middle + off, share)]
