"""What comes with a model from a folder of transformers and goes with it when it is saved or converted."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recurra.errors import InputError, RecurraError, one_line
from recurra.files import inside, read_text, write_atomically

if TYPE_CHECKING:
    from tokenizers import Tokenizer

COMPANIONS = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json")
"""Files beside the weights that are kept as they are."""


@dataclass(frozen=True)
class Origin:
    """Where a model came from."""

    config: Mapping[str, Any] | None = None
    """The config.json of the folder of transformers it was read from, if it was."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Text of the files in `COMPANIONS` that were there, by name."""

    @classmethod
    def read(cls, folder: Path, config: Mapping[str, Any] | None) -> Origin:
        """What lies in `folder`. Raises InputError if a file there cannot be read or is not text."""
        files = {}
        for name in COMPANIONS:
            if os.path.lexists(folder / name):
                try:
                    files[name] = read_text(inside(folder, name))
                except (OSError, ValueError) as error:
                    raise InputError(f"{folder / name} cannot be read: {one_line(error)}") from error
        return cls(config, files)

    def write_files(self, folder: Path) -> None:
        """Put the kept files into `folder`."""
        for name, text in self.files.items():
            write_atomically(folder / name, text)

    @cached_property
    def tokenizer(self) -> Tokenizer | None:
        """From tokenizer.json, by the `tokenizers` library; None if there was no such file.

        Raises:
            InputError: it cannot be read.
            RecurraError: the library is missing.
        """
        if "tokenizer.json" not in self.files:
            return None
        try:
            from tokenizers import Tokenizer
        except ImportError as error:
            raise RecurraError("tokenizer.json needs the library `tokenizers`: pip install tokenizers") from error
        with tokenizing("be read"):
            return Tokenizer.from_str(self.files["tokenizer.json"])


@contextmanager
def tokenizing(what: str) -> Iterator[None]:
    """Turns whatever the `tokenizers` library raises into an InputError: tokenizer.json cannot ... `what`."""
    try:
        yield
    except BaseException as error:
        # It raises nothing narrower than Exception, and its panics are not even that.
        if not isinstance(error, Exception) and type(error).__module__ != "pyo3_runtime":
            raise
        raise InputError(f"tokenizer.json cannot {what}: {one_line(error)}") from error
