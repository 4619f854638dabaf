"""The training loop."""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from recurra.data.text import Windows, split
from recurra.errors import InputError, RecurraError
from recurra.files import write_atomically
from recurra.models import files
from recurra.models.language_model import LanguageModel
from recurra.state import State
from recurra.training import checkpoint
from recurra.training.config import TrainConfig
from recurra.training.evaluate import bits_per_byte
from recurra.training.plot import loss_curve

Progress = Callable[[dict[str, float]], None]
"""Called after every update with its metrics."""


def train(
    config: TrainConfig, data: bytes, folder: str | Path, resume: bool = False, progress: Progress | None = None
) -> dict[str, object]:
    """Train a byte-level language model and fill a run folder; gives what is written to `result.json`.

    Args:
        data: the text; its last tenth is held out.
        folder: made if missing. Ends up with result.json, metrics.jsonl, loss.png, model.safetensors, config.json.
        resume: go on from the folder's last checkpoint, to the same weights as if there had been no break.

    Raises:
        InputError: the folder is in use, or its checkpoint does not fit; the text is too short.
        RecurraError: a file cannot be written.
    """
    return _Run(config, data, Path(folder), progress).run(resume)


class _Run:
    def __init__(self, config: TrainConfig, data: bytes, folder: Path, progress: Progress | None):
        self.config, self.folder, self.progress = config, folder, progress
        training, self.held_out = split(data)
        self.windows = Windows(training, config.batch, config.window)
        self.digest = hashlib.sha256(data).hexdigest()
        torch.manual_seed(config.seed)
        self.model = LanguageModel(**config.model_config())
        self.optimiser = torch.optim.AdamW(_groups(self.model, config.weight_decay), betas=(0.9, 0.99))
        self.state: State | None = None
        self.step, self.seconds = 0, 0.0

    def run(self, resume: bool) -> dict[str, object]:
        try:
            self._open(resume)
            self._train()
            return self._finish()
        except OSError as error:
            raise RecurraError(
                f"{str(self.folder)!r} cannot be written: {error.strerror}; what was written before is whole"
            ) from error

    # --- the folder -----------------------------------------------------------------------------------------------
    @property
    def _checkpoint(self) -> Path:
        return self.folder / "checkpoint.safetensors"

    def _open(self, resume: bool) -> None:
        if resume and self._checkpoint.exists():
            self._continue()
            return
        if resume and not (self.folder / "config.json").exists():
            raise InputError(f"{str(self.folder)!r} holds no run to resume; leave out resume to start one")
        if not resume and self.folder.exists() and any(self.folder.iterdir()):
            raise InputError(f"run folder {str(self.folder)!r} is not empty; resume it or choose another")
        self.folder.mkdir(parents=True, exist_ok=True)
        about = {"model": self.model.config, "training": self.config.as_dict(), "data_sha256": self.digest}
        write_atomically(self.folder / "config.json", json.dumps(about, indent=2) + "\n")
        write_atomically(self.folder / "metrics.jsonl", "")

    def _continue(self) -> None:
        saved = checkpoint.read_config(self.folder / "config.json")
        if saved != self.config:
            changed = [k for k, v in saved.as_dict().items() if v != self.config.as_dict()[k]]
            raise InputError(
                f"{', '.join(changed)} differ(s) from the run in {str(self.folder)!r}: resume it unchanged"
            )
        if json.loads((self.folder / "config.json").read_text()).get("data_sha256") != self.digest:
            raise InputError(f"the run in {str(self.folder)!r} was begun on other data: resume it on the same")
        self.state, meta = checkpoint.load(self._checkpoint, self.model, self.optimiser)
        self.step, self.seconds = int(meta["step"]), meta["seconds"]
        kept = [line for line in _whole_lines(self.folder / "metrics.jsonl") if json.loads(line)["step"] <= self.step]
        write_atomically(self.folder / "metrics.jsonl", "".join(kept))

    def _save(self, seconds: float) -> None:
        meta = {"step": self.step, "seconds": seconds}
        checkpoint.save(self._checkpoint, self.model, self.optimiser, self.state, meta)

    # --- the loop -------------------------------------------------------------------------------------------------
    def _train(self) -> None:
        config, before, began = self.config, self.seconds, time.perf_counter()
        self.model.train()
        with open(self.folder / "metrics.jsonl", "a") as log:
            while self.step < config.steps:
                loss = self._update()
                self.step += 1
                self.seconds = before + time.perf_counter() - began
                metrics = self._metrics(loss)
                if self.step % config.log_every == 0 or self.step == config.steps:
                    log.write(json.dumps(metrics) + "\n")
                    log.flush()
                if self.step % config.checkpoint_every == 0 or self.step == config.steps:
                    os.fsync(log.fileno())
                    self._save(self.seconds)
                if self.progress:
                    self.progress(metrics)

    def _update(self) -> float:
        config, window = self.config, self.windows.window(self.step)
        for group in self.optimiser.param_groups:
            group["lr"] = config.learning_rate_at(self.step)
        state = None if self.state is None or self.windows.starts(self.step) else self.state
        logits, state = self.model(window[:, :-1], state, engine=config.engine)
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), window[:, 1:].flatten())
        if not math.isfinite(loss.item()):
            raise RecurraError(f"the loss became {loss.item()} at step {self.step}: use a smaller learning rate")
        self.optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), config.clip)
        self.optimiser.step()
        self.state = state.detach()
        return loss.item()

    def _metrics(self, loss: float) -> dict[str, float]:
        tokens = self.step * self.config.batch * self.config.window
        return {
            "step": self.step,
            "steps": self.config.steps,
            "tokens": tokens,
            "loss": loss,
            "bits_per_byte": loss / math.log(2),
            "learning_rate": self.config.learning_rate_at(self.step - 1),
            "seconds": self.seconds,
            "tokens_per_second": tokens / self.seconds,
        }

    def _finish(self) -> dict[str, object]:
        self.model.eval()
        files.save(self.model, self.folder)
        about = {"model": self.model.config, "training": self.config.as_dict(), "data_sha256": self.digest}
        write_atomically(self.folder / "config.json", json.dumps(about, indent=2) + "\n")
        result: dict[str, object] = {
            "bits_per_byte": bits_per_byte(self.model, self.held_out, engine=self.config.engine),
            "training_seconds": round(self.seconds, 3),
            "tokens": self.step * self.config.batch * self.config.window,
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "layer": self.config.pattern,
        }
        loss_curve(self.folder / "metrics.jsonl", self.folder / "loss.png")
        write_atomically(self.folder / "result.json", json.dumps(result, indent=2) + "\n")
        return result


def _groups(model: nn.Module, decay: float) -> list[dict[str, object]]:
    """Weight decay for matrices only."""
    matrices: list[Tensor] = [p for p in model.parameters() if p.dim() >= 2]
    others = [p for p in model.parameters() if p.dim() < 2]
    return [{"params": matrices, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]


def _whole_lines(path: Path) -> list[str]:
    """Lines of a file that end; a line cut short by a kill is left out."""
    return [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
