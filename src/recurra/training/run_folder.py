"""The folder of a training run: what lies in it, who may write there, and how each file stays whole."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from recurra import options
from recurra.engines.products import speeds
from recurra.engines.rates import Speeds
from recurra.errors import InputError, one_line
from recurra.files import read_json, write_atomically
from recurra.models.files import OWN
from recurra.models.pattern import kinds
from recurra.options import shown
from recurra.registry import Unregistered, from_a_file, origins
from recurra.training.config import TrainConfig
from recurra.training.course import METRICS, Course

FILES = ("config.json", METRICS, "checkpoint.safetensors", "model.safetensors", "loss.png", "result.json")
"""What a finished run has written, in the order in which it first appears."""

ALL_TORCH = {"torch": 0.0, "onednn": 0.0}
"""How products were computed in runs whose folder does not say: oneDNN gains nothing, so PyTorch's way was taken."""

_LEFTOVER = re.compile(rf"\.({'|'.join(map(re.escape, FILES))})\.\w{{8}}")
"""Names under which `write_atomically` writes; a process killed while writing leaves one behind."""


def begun(folder: Path) -> tuple[TrainConfig, str | None]:
    """The config of the run that a folder holds, and the path of its text; None is the built-in text.

    Raises InputError if config.json describes no run.
    """
    path = folder / "config.json"
    try:
        about = read_json(path)
        with from_a_file(about.get(OWN)):
            config, source = TrainConfig(**about["training"]), about.get("data")
        if not isinstance(source, str | None):
            raise ValueError(f"data is {shown(source)}; expected a path")
        return config, source
    except Unregistered as error:
        raise InputError(f"{str(path)!r}: {error}") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{str(path)!r} does not describe a training run: {one_line(error)}") from error


def products_of(found: Any, path: Path) -> dict[str, float]:
    """The speeds that decide how products are computed, as a folder has them; raises InputError if they are none."""
    names = [field.name for field in fields(Speeds)]
    try:
        return {name: options.number(name, found[name], 0) for name in names}
    except (InputError, KeyError, TypeError) as error:
        raise InputError(
            f"{str(path)!r} does not describe a training run: products is {shown(found)}; expected {', '.join(names)}"
        ) from error


def lock(folder: Path) -> int | None:
    """Lock the folder itself, until `unlock`: that leaves no file behind, and ends with the process however it ends.

    Raises InputError if another process has it.
    """
    try:
        import fcntl
    except ImportError:  # not on Windows
        return None
    held = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(held)
        raise InputError(
            f"run folder {str(folder)!r} is in use by another run; wait until that has ended, or choose another"
        ) from error
    except OSError:
        pass  # a file system without locks
    return held


def unlock(held: int | None) -> None:
    """Leave a folder to others."""
    if held is not None:
        os.close(held)


class RunFolder:
    """The folder of one training run.

    Args:
        path: of the folder.
        model, training: the config of the model and of its training.
        data: the whole text, of which the folder remembers the digest.
        source: where the text came from, which the folder remembers too.
    """

    def __init__(
        self, path: Path, model: Mapping[str, Any], training: TrainConfig, data: bytes, source: str | None = None
    ):
        self.path, self.training = path, training
        self.about: dict[str, Any] = {
            "model": dict(model),
            "training": training.as_dict(),
            "data": source,
            "data_sha256": hashlib.sha256(data).hexdigest(),
            "products": asdict(speeds()),
        }
        if own := origins(kinds(training.pattern)):
            self.about[OWN] = own
        self._lock: int | None = None

    @property
    def checkpoint(self) -> Path:
        """The last checkpoint."""
        return self.path / "checkpoint.safetensors"

    @property
    def course(self) -> Course:
        """One line per logged step."""
        return Course(self.path)

    @property
    def products(self) -> Speeds:
        """Which ways products take in this run: those of its beginning, for the bits to be the same after a break."""
        return Speeds(**self.about["products"])

    @property
    def identity(self) -> str:
        """The same for two folders if and only if they hold the same run."""
        own = {name: self.about[name] for name in ("model", "training", "data_sha256")}
        return hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()

    def open(self, resume: bool) -> bool:
        """Take possession of the folder, until `close`; True if there is a checkpoint to go on from.

        Raises:
            InputError: a new run in a folder that holds something; or nothing there to resume, or another run, or
                files that are not ours; or another process is at work there. The folder is then as it was.
        """
        nothing = InputError(f"{str(self.path)!r} holds no run to resume; leave out resume to start one")
        if resume and not self.path.exists():
            raise nothing
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = lock(self.path)
        contents = self._contents()
        if resume and contents and "config.json" not in contents:
            raise nothing
        if contents and not resume:
            raise InputError(f"run folder {str(self.path)!r} is not empty; resume it or choose another")
        if contents:
            self._expect_this_run()
        else:
            self._write_about()
        for name in os.listdir(self.path):
            if _LEFTOVER.fullmatch(name):
                (self.path / name).unlink()
        return self.checkpoint.exists()

    def close(self) -> None:
        """Leave the folder to others."""
        unlock(self._lock)
        self._lock = None

    def _contents(self) -> list[str]:
        """Names in the folder, without what a killed process left half-written."""
        return [name for name in os.listdir(self.path) if not _LEFTOVER.fullmatch(name)]

    def _expect_this_run(self) -> None:
        (config, source), mine = begun(self.path), self.training.as_dict()
        saved, about = config.as_dict(), read_json(self.path / "config.json")
        if changed := [name for name in mine if saved[name] != mine[name]]:
            raise InputError(f"{', '.join(changed)} differ(s) from the run in {str(self.path)!r}: resume it unchanged")
        if about.get("data_sha256") != self.about["data_sha256"]:
            raise InputError(f"the run in {str(self.path)!r} was begun on other data: resume it on the same")
        if about.get("model") != self.about["model"]:
            raise InputError(f"the run in {str(self.path)!r} was begun by another recurra: start it anew elsewhere")
        self.about["products"] = products_of(about.get("products", ALL_TORCH), self.path / "config.json")
        if self.about["data"] in (None, source):
            self.about["data"] = source
        else:
            self._write_about()  # the text has moved

    def _write_about(self) -> None:
        self.write("config.json", json.dumps(self.about, indent=2) + "\n")

    def write(self, name: str, content: bytes | str) -> None:
        """Put a whole file in place, or none."""
        write_atomically(self.path / name, content)
