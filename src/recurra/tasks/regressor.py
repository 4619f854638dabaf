"""A number for each sequence."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recurra.errors import InputError
from recurra.tasks.heads.head import Around, Head
from recurra.tasks.heads.names import number_head
from recurra.tasks.labelled import Labelled, given
from recurra.tasks.scikit import expect_finite


class Regressor(Labelled):
    """A number for each sequence, of any length, with its uncertainty.

    Args:
        head: the distribution: "normal", "student-t", "negative-binomial" (counts), "quantile", or a `Head`.
        pattern, pool, bidirectional, scale, gap, inlet, shapes, crop, width, mlp, dropout, layers, steps, seconds,
            learning_rate, weight_decay, batch, seed: as those of `Classifier`.
    """

    task = "regress"
    _estimator_type = "regressor"

    def __init__(
        self,
        pattern: str = "gru*2",
        *,
        head: Any = "normal",
        pool: str = "mean",
        bidirectional: bool = False,
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
        self.pattern, self.head, self.pool, self.bidirectional, self.scale = pattern, head, pool, bidirectional, scale
        self.gap, self.inlet, self.shapes, self.crop = gap, inlet, shapes, crop
        self.width, self.mlp, self.dropout, self.layers = width, mlp, dropout, layers
        self.steps, self.seconds, self.batch = steps, seconds, batch
        self.learning_rate, self.weight_decay, self.seed = learning_rate, weight_decay, seed

    def _answers(self, y: Any, fresh: bool) -> Tensor:
        try:
            values = np.array(y, np.float64) if np.asarray(y).dtype.kind != "c" else None
        except (TypeError, ValueError):
            values = None
        if values is None:
            raise InputError("y holds what is no number; expected one real number for each case")
        if values.ndim != 1:
            raise InputError(f"y is {list(values.shape)}; expected one finite number for each case")
        expect_finite(values, "a finite number for each case")
        if fresh:
            self._units = (float(values.mean()), float(values.std()) or 1.0)
        return torch.from_numpy(values).to(torch.get_default_dtype())

    def _head(self) -> Head:
        return number_head(self.head)

    def _around(self) -> Around:
        mean, deviation = (torch.tensor(value) for value in self._units)
        return Around(mean, deviation)

    def predict(self, X: Any) -> NDArray[np.float64]:
        """[cases]: the one value to name.

        Raises InputError if nothing was fitted or X has other channels.
        """
        raw = self._said(self._read(X))
        return self.model_.head.predict(raw, self._around()).double().numpy()

    def predict_quantiles(self, X: Any, levels: Sequence[float]) -> NDArray[np.float64]:
        """[cases, levels]: below which the number falls with these probabilities.

        Raises InputError as `predict`, or if a level is not between 0 and 1.
        """
        raw = self._said(self._read(X))
        return self.model_.head.quantile(raw, levels, self._around()).double().numpy()

    def score(self, X: Any, y: Any = None) -> float:
        """The coefficient of determination."""
        return self.evaluate(X, y)["r2"]

    def evaluate(self, X: Any, y: Any = None) -> dict[str, Any]:
        """Errors, the share of the variance that is explained, and the floor: always the mean of those fitted on.

        Raises InputError as `predict`.
        """
        began, sequences = time.perf_counter(), self._read(X)
        answers = self._answers(given(sequences, y, type(self).__name__), fresh=False).double()
        off = answers - torch.from_numpy(self.predict(sequences))
        spread = (answers - answers.mean()).square().sum()
        return {
            "mae": float(off.abs().mean()),
            "rmse": float(off.square().mean().sqrt()),
            "r2": float(1 - off.square().sum() / spread),
            "floors": {"mean": {"mae": float((answers - self._units[0]).abs().mean())}},
            "cases": len(answers),
            "parameters": sum(p.numel() for p in self.model_.parameters()),
            "seconds": time.perf_counter() - began,
        }

    def _told(self, raw: Tensor) -> float:
        return float(self.model_.head.predict(raw, self._around()))

    def _about(self) -> dict[str, Any]:
        return super()._about() | {"units": list(self._units)}

    def _remember(self, about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        super()._remember(about, tensors)
        self._units = (about["units"][0], about["units"][1])
