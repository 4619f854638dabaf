"""Everything that decides what a training run computes."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from recurra.errors import InputError


@dataclass(frozen=True)
class TrainConfig:
    """A training run; the same config, data and machine give the same weights bit for bit."""

    pattern: str = "min-gru*2"
    width: int = 256
    mlp: int = 512
    dropout: float = 0.1
    batch: int = 64
    """Streams of text side by side."""
    window: int = 64
    """Bytes between two updates; gradients flow within a window, the state flows on."""
    steps: int = 500
    learning_rate: float = 4e-3
    warmup: int = 50
    """Steps until the learning rate has risen to its full value; from there it falls to a tenth along a cosine."""
    weight_decay: float = 0.1
    clip: float = 1.0
    """Largest norm of the gradient."""
    seed: int = 0
    engine: str = "auto"
    log_every: int = 10
    checkpoint_every: int = 100

    def __post_init__(self) -> None:
        for name in ("width", "mlp", "batch", "window", "steps", "log_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; expected at least 1")
        if not 0 <= self.dropout < 1:
            raise InputError(f"dropout is {self.dropout}; expected 0 or more, below 1")
        if not self.learning_rate > 0:
            raise InputError(f"learning_rate is {self.learning_rate}; expected a positive number")

    def model_config(self) -> dict[str, Any]:
        """Arguments of the `LanguageModel` to train."""
        return {"width": self.width, "pattern": self.pattern, "mlp": self.mlp, "dropout": self.dropout}

    def learning_rate_at(self, step: int) -> float:
        """The learning rate of update number `step`, from 0."""
        rise = min(1.0, (step + 1) / max(1, self.warmup))
        done = max(0, step - self.warmup) / max(1, self.steps - self.warmup)
        return self.learning_rate * rise * (0.55 + 0.45 * math.cos(math.pi * done))

    def as_dict(self) -> dict[str, Any]:
        """The config as plain data."""
        return asdict(self)
