"""A fit that may be killed: what of it lies in a folder, and how it goes on from there to the same weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from recurra import options
from recurra.engines.products import decided_by, speeds
from recurra.engines.rates import Speeds
from recurra.errors import InputError, RecurraError
from recurra.files import read_json, write_atomically
from recurra.training import checkpoint
from recurra.training.checkpoint import Position
from recurra.training.run_folder import lock, products_of, unlock

ABOUT, CHECKPOINT = "fit.json", "checkpoint.safetensors"
EVERY = 100
"""Updates between two checkpoints."""
START = Position(0, 0.0, None)


class Kept:
    """Checkpoints of one fit in a folder.

    Args:
        folder: made if missing.
        about: plain data that decides what is learned, settings and digests of the data by name.
        resume: go on from the folder's last checkpoint.
    """

    def __init__(self, folder: str | Path, about: Mapping[str, Any], resume: bool = False):
        self.folder, self.resume = options.path("folder", folder), options.flag("resume", resume)
        # As it comes out of a file: tuples are lists there.
        self.about = json.loads(json.dumps(about)) | {"threads": torch.get_num_threads()}
        self._products = speeds()

    @property
    def checkpoint(self) -> Path:
        """The last one."""
        return self.folder / CHECKPOINT

    @property
    def identity(self) -> str:
        """The same for two fits if and only if they learn the same."""
        return hashlib.sha256(json.dumps(self.about, sort_keys=True).encode()).hexdigest()

    @contextmanager
    def opened(self, model: nn.Module, optimiser: torch.optim.Optimizer) -> Iterator[Position]:
        """Where the fit stands, with model and optimiser put there; products of matrices take the way they took.

        Raises:
            InputError: there is nothing to resume, or another fit; an unfinished fit would be lost; the folder is in
                use. It is then as it was.
            RecurraError: the folder cannot be written.
        """
        try:
            if not self.resume:
                self.folder.mkdir(parents=True, exist_ok=True)
            held = lock(self.folder) if self.folder.exists() else None
        except OSError as error:
            raise RecurraError(f"folder {str(self.folder)!r} cannot be used: {error.strerror}") from error
        try:
            at = self._begin(model, optimiser)
            with decided_by(self._products):
                yield at
        finally:
            unlock(held)

    def _begin(self, model: nn.Module, optimiser: torch.optim.Optimizer) -> Position:
        path = self.folder / ABOUT
        if not self.resume:
            if self.checkpoint.exists() and not (self.folder / "config.json").exists():
                raise InputError(
                    f"folder {str(self.folder)!r} holds a fit that was not finished; resume it or choose another"
                )
            self.checkpoint.unlink(missing_ok=True)
            self._write(path, json.dumps(self.about | {"products": asdict(self._products)}, indent=2) + "\n")
            return START
        if not path.exists():
            raise InputError(f"folder {str(self.folder)!r} holds no fit to resume; leave out resume to start one")
        try:
            found = read_json(path)
        except (OSError, ValueError) as error:
            raise InputError(f"{str(path)!r} cannot be read: {error}; expected what fit wrote") from error
        self._products = Speeds(**products_of(found.pop("products", None), path))
        if changed := [name for name in self.about | found if found.get(name) != self.about.get(name)]:
            raise InputError(
                f"{', '.join(changed)} differ(s) from the fit in {str(self.folder)!r}: resume it unchanged"
            )
        if not self.checkpoint.exists():
            return START
        return checkpoint.load(self.checkpoint, self.identity, model, optimiser)

    def save(self, model: nn.Module, optimiser: torch.optim.Optimizer, at: Position) -> None:
        """Write a checkpoint in place of the last one. Raises RecurraError if it cannot be written."""
        try:
            checkpoint.save(self.checkpoint, self.identity, model, optimiser, at)
        except OSError as error:
            raise RecurraError(
                f"{str(self.checkpoint)!r} cannot be written: {error.strerror}; the one before is whole"
            ) from error

    def _write(self, path: Path, text: str) -> None:
        try:
            write_atomically(path, text)
        except OSError as error:
            raise RecurraError(f"{str(path)!r} cannot be written: {error.strerror}") from error
