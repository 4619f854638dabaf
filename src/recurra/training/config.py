"""Everything that decides what a training run computes."""

from __future__ import annotations

import math
import sys
from dataclasses import asdict, dataclass
from typing import Any

from recurra.errors import InputError
from recurra.models.pattern import parse

PRECISIONS = ("fp32", "bf16")


@dataclass(frozen=True)
class TrainConfig:
    """A training run; the same config, data, machine and number of threads give the same weights bit for bit.

    Raises:
        InputError: a setting is out of range; the message names it.
    """

    pattern: str = "gru+rwkv7"
    """A GRU learns most per byte, a matrix memory above it recalls what was named before: less than two of either."""
    width: int = 192
    mlp: int = 192
    """Hidden width of the gated MLPs; 0 leaves them out."""
    dropout: float = 0.05
    batch: int = 16
    """Streams of text side by side."""
    window: int = 64
    """Bytes between two updates; gradients flow within a window, the state flows on."""
    steps: int = 2700
    """Updates; they also set the learning rate's course."""
    seconds: float | None = None
    """Stop after this much training even if steps are left. Where that falls depends on the clock, so a run that is
    to be repeated exactly does without."""
    learning_rate: float = 1e-2
    warmup: int = 50
    """Steps until the learning rate has risen to its full value; from there it falls to nothing along a cosine."""
    weight_decay: float = 0.3
    clip: float = 1.0
    """Largest norm of the gradient."""
    seed: int = 0
    engine: str = "auto"
    precision: str = "fp32"
    """Of products of matrices: "bf16" computes them in bfloat16 with float32 sums. Steps, states, weights and their
    moments are float32 either way."""
    log_every: int = 10
    checkpoint_every: int = 100

    def __post_init__(self) -> None:
        parse(self.pattern)
        for name in ("width", "batch", "window", "steps", "log_every", "checkpoint_every"):
            self._expect(name, "a positive int", type(self.__dict__[name]) is int and self.__dict__[name] >= 1)
        for name in ("mlp", "warmup", "seed"):
            value = self.__dict__[name]
            self._expect(name, "an int, 0 or more, below 2^63", type(value) is int and 0 <= value < 2**63)
        for name in ("learning_rate", "clip"):
            self._expect(name, "a positive number", self._is_number(name) and self.__dict__[name] > 0)
        self._expect("precision", " or ".join(map(repr, PRECISIONS)), self.precision in PRECISIONS)
        self._expect("weight_decay", "0 or more", self._is_number("weight_decay") and self.weight_decay >= 0)
        self._expect("dropout", "0 or more, below 1", self._is_number("dropout") and 0 <= self.dropout < 1)
        if self.seconds is not None:
            self._expect("seconds", "a positive number or None", self._is_number("seconds") and self.seconds > 0)

    def _is_number(self, name: str) -> bool:
        value = self.__dict__[name]
        return type(value) in (int, float) and abs(value) <= sys.float_info.max

    def _expect(self, name: str, what: str, holds: bool) -> None:
        if not holds:
            raise InputError(f"{name} is {self.__dict__[name]!r}; expected {what}")

    def model_config(self) -> dict[str, Any]:
        """Arguments of the `LanguageModel` to train."""
        return {"width": self.width, "pattern": self.pattern, "mlp": self.mlp, "dropout": self.dropout}

    def learning_rate_at(self, step: int) -> float:
        """The learning rate of update number `step`, from 0."""
        rise = min(1.0, (step + 1) / max(1, self.warmup))
        done = max(0, step - self.warmup) / max(1, self.steps - self.warmup)
        return self.learning_rate * rise * (0.5 + 0.5 * math.cos(math.pi * done))

    def as_dict(self) -> dict[str, Any]:
        """The config as plain data."""
        return asdict(self)
