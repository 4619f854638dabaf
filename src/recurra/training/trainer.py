"""The training loop."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from recurra import options
from recurra.data.text import Windows, split
from recurra.engines import choose
from recurra.engines.products import decided_by
from recurra.errors import InputError, RecurraError
from recurra.models import files
from recurra.models.language_model import LanguageModel
from recurra.state import State
from recurra.training import checkpoint
from recurra.training.carry import carried
from recurra.training.config import TrainConfig
from recurra.training.evaluate import bits_per_byte
from recurra.training.interrupt import deferred
from recurra.training.muon import Muon
from recurra.training.plot import loss_curve
from recurra.training.run_folder import RunFolder

Progress = Callable[[dict[str, float]], None]
"""Called after every update with its metrics."""


def train(
    config: TrainConfig,
    data: bytes,
    folder: str | Path,
    resume: bool = False,
    progress: Progress | None = None,
    source: str | None = None,
) -> dict[str, Any]:
    """Train a byte-level language model and fill a run folder; gives what is written to `result.json`.

    Ctrl-C ends it after the update at hand, with a checkpoint from which `resume` goes on; a second one at once, and
    then from the last checkpoint.

    Args:
        data: the text; its last tenth is held out.
        folder: made if missing. Ends up with result.json, metrics.jsonl, loss.png, model.safetensors, config.json.
        resume: go on from the folder's last checkpoint, to the same weights as if there had been no break.
        source: the path of the text, for the folder to remember.

    Raises:
        InputError: the folder is in use, or its checkpoint does not fit; the text is too short; the model is too large.
        EngineRefused: the engine that `config` names cannot run the pattern.
        RecurraError: a file cannot be written, or the loss is no longer finite.
    """
    options.instance("config", config, TrainConfig)
    options.flag("resume", resume)
    if progress is not None:
        options.function("progress", progress)
    if source is not None:
        options.instance("source", source, str)
    run = _Run(config, data, options.path("folder", folder), progress, source)
    try:
        run.open(resume)
        with decided_by(run.folder.products):
            run.train()
            return run.finish()
    except OSError as error:
        raise RecurraError(
            f"{str(folder)!r} cannot be written: {error.strerror}; what was written before is whole"
        ) from error
    finally:
        run.folder.close()


class _Run:
    def __init__(self, config: TrainConfig, data: bytes, folder: Path, progress: Progress | None, source: str | None):
        options.instance("data", data, bytes)
        self.config, self.progress = config, progress
        training, self.held_out = split(data)
        self.windows = Windows(training, config.batch, config.window)
        if len(self.held_out) < 2:
            raise InputError(f"data holds {len(data)} bytes; expected at least 20, since the last tenth is held out")
        _expect_room(config)
        torch.manual_seed(config.seed)
        self.model = LanguageModel(**config.model_config())
        self.optimiser = Muon(self.model, self.model.blocks, config.weight_decay)
        self.folder = RunFolder(folder, self.model.config, config, data, source)
        self.at = checkpoint.Position(step=0, seconds=0.0, state=None)

    def open(self, resume: bool) -> None:
        """Fail before anything is written if the engine or the folder will not do; else go to where the run stands."""
        if self.config.engine != "auto":
            with torch.no_grad():
                self.model.eval()(self.windows.window(0)[:1, :1], engine=self.config.engine)
        if self.folder.open(resume):
            self.at = checkpoint.load(self.folder.checkpoint, self.folder.identity, self.model, self.optimiser)
        self.folder.course.drop_after(self.at.step)

    def train(self) -> None:
        """Every update that is left, with metrics and checkpoints."""
        config, before, began = self.config, self.at.seconds, time.perf_counter()
        self.model.train()
        with deferred() as interrupted:
            while not self._is_over():
                loss, state = self._update()
                self.at = checkpoint.Position(self.at.step + 1, before + time.perf_counter() - began, state)
                metrics = self._metrics(loss)
                if self.at.step % config.log_every == 0 or self._is_over():
                    self.folder.course.log(metrics)
                stop = interrupted()
                if self.at.step % config.checkpoint_every == 0 or self._is_over() or stop:
                    checkpoint.save(self.folder.checkpoint, self.folder.identity, self.model, self.optimiser, self.at)
                if self.progress:
                    self.progress(metrics)
                if stop:
                    raise KeyboardInterrupt
            if interrupted():
                raise KeyboardInterrupt

    def _is_over(self) -> bool:
        limit = math.inf if self.config.seconds is None else self.config.seconds
        return self.at.step >= self.config.steps or self.at.seconds >= limit

    def _update(self) -> tuple[float, State]:
        """One window: its loss in nats, and the state to carry into the next."""
        step, config = self.at.step, self.config
        for group in self.optimiser.param_groups:
            group["lr"] = config.learning_rate_at(step)
        window = self.windows.window(step)
        given = None if self.windows.starts(step) else self.at.state
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=config.precision == "bf16"):
            logits, state = self.model(window[:, :-1], given, engine=config.engine)
        loss = nn.functional.cross_entropy(logits.float().flatten(0, 1), window[:, 1:].flatten())
        if not math.isfinite(loss.item()):
            raise RecurraError(f"the loss became {loss.item()} at step {step}: use a smaller learning rate")
        self.optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), config.clip)
        self.optimiser.step()
        return loss.item(), carried(self.model, state.detach(), len(window))

    @property
    def _tokens(self) -> int:
        return self.at.step * self.config.batch * self.config.window

    def _metrics(self, loss: float) -> dict[str, float]:
        return {
            "step": self.at.step,
            "steps": self.config.steps,
            "tokens": self._tokens,
            "loss": loss,
            "bits_per_byte": loss / math.log(2),
            "learning_rate": self.config.learning_rate_at(self.at.step - 1),
            "seconds": self.at.seconds,
            "tokens_per_second": self._tokens / self.at.seconds,
        }

    def finish(self) -> dict[str, Any]:
        """Write the model, how well it does on the held-out text, and the loss curve."""
        self.model.eval()
        files.save(self.model, self.folder.path, self.folder.about)
        result = {
            "bits_per_byte": bits_per_byte(self.model, self.held_out, engine=self.config.engine),
            "training_seconds": round(self.at.seconds, 3),
            "tokens": self._tokens,
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "layer": self.config.pattern,
        }
        loss_curve(self.folder.course.rows(), self.folder.path / "loss.png")
        self.folder.write("result.json", json.dumps(result, indent=2) + "\n")
        return result


def _expect_room(config: TrainConfig) -> None:
    """Raises InputError if memory does not hold the weights, their gradients and the two moments of each."""
    try:
        with torch.device("meta"):
            weights = sum(p.nbytes for p in LanguageModel(**config.model_config()).parameters())
    except (RuntimeError, TypeError) as error:
        raise InputError(f"width is {config.width}; the model would hold more numbers than a tensor can") from error
    needed, room = 4 * weights, choose.room(torch.device("cpu"))
    if needed > room:
        raise InputError(
            f"width is {config.width}, mlp is {config.mlp}; training {config.pattern!r} would need "
            f"{needed / 2**30:.1f} GiB, {room / 2**30:.1f} are free"
        )
