"""The folder of a training run: what lies in it, who may write there, and how each file stays whole."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recurra.errors import InputError
from recurra.files import write_atomically
from recurra.training.checkpoint import read_config
from recurra.training.config import TrainConfig

FILES = ("config.json", "metrics.jsonl", "checkpoint.safetensors", "model.safetensors", "loss.png", "result.json")
"""What a finished run has written, in the order in which it first appears."""

_LEFTOVER = re.compile(rf"\.({'|'.join(map(re.escape, FILES))})\.\w{{8}}")
"""Names under which `write_atomically` writes; a process killed while writing leaves one behind."""


class RunFolder:
    """The folder of one training run.

    Args:
        path: of the folder.
        model, training: the config of the model and of its training.
        data: the whole text, of which the folder remembers the digest.
    """

    def __init__(self, path: Path, model: Mapping[str, Any], training: TrainConfig, data: bytes):
        self.path, self.training = path, training
        self.about = {
            "model": dict(model),
            "training": training.as_dict(),
            "data_sha256": hashlib.sha256(data).hexdigest(),
        }

    @property
    def checkpoint(self) -> Path:
        """The last checkpoint."""
        return self.path / "checkpoint.safetensors"

    @property
    def metrics(self) -> Path:
        """One JSON object per logged step."""
        return self.path / "metrics.jsonl"

    @property
    def identity(self) -> str:
        """The same for two folders if and only if they hold the same run."""
        own = {name: self.about[name] for name in ("model", "training", "data_sha256")}
        return hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()

    def open(self, resume: bool) -> bool:
        """Take possession of the folder; True if there is a checkpoint to go on from.

        Raises:
            InputError: a new run in a folder that holds something; or nothing there to resume, or another run, or
                files that are not ours. The folder is then as it was.
        """
        contents = self._contents()
        if resume and not ("config.json" in contents or (self.path.exists() and not contents)):
            raise InputError(f"{str(self.path)!r} holds no run to resume; leave out resume to start one")
        if contents and not resume:
            raise InputError(f"run folder {str(self.path)!r} is not empty; resume it or choose another")
        if contents:
            self._expect_this_run()
        else:
            self.path.mkdir(parents=True, exist_ok=True)
            self.write("config.json", json.dumps(self.about, indent=2) + "\n")
        for name in os.listdir(self.path):
            if _LEFTOVER.fullmatch(name):
                (self.path / name).unlink()
        return self.checkpoint.exists()

    def _contents(self) -> list[str]:
        """Names in the folder, without what a killed process left half-written."""
        names = os.listdir(self.path) if self.path.exists() else []
        return [name for name in names if not _LEFTOVER.fullmatch(name)]

    def _expect_this_run(self) -> None:
        path, mine = self.path / "config.json", self.training.as_dict()
        saved = read_config(path).as_dict()
        if changed := [name for name in mine if saved[name] != mine[name]]:
            raise InputError(f"{', '.join(changed)} differ(s) from the run in {str(self.path)!r}: resume it unchanged")
        about = json.loads(path.read_text())
        if about.get("data_sha256") != self.about["data_sha256"]:
            raise InputError(f"the run in {str(self.path)!r} was begun on other data: resume it on the same")
        self.about = about

    def write(self, name: str, content: bytes | str) -> None:
        """Put a whole file in place, or none."""
        write_atomically(self.path / name, content)

    def log(self, row: Mapping[str, float]) -> None:
        """Add a line to the metrics; a line that does not fit on the disk is taken back."""
        line = json.dumps(row).encode() + b"\n"
        with open(self.metrics, "ab", buffering=0) as file:
            size = file.tell()
            try:
                if file.write(line) < len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.metrics))
                os.fsync(file.fileno())
            except OSError:
                file.truncate(size)
                raise

    def drop_metrics_after(self, step: int) -> None:
        """Keep the metrics up to `step`; what a killed process logged beyond its last checkpoint will come again."""
        lines = self.metrics.read_bytes().splitlines(keepends=True) if self.metrics.exists() else []
        whole = [line for line in lines if line.endswith(b"\n")]
        try:
            kept = [line for line in whole if json.loads(line)["step"] <= step]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{str(self.metrics)!r} holds a line that is no metrics: {error}; move it away") from error
        self.write("metrics.jsonl", b"".join(kept))
