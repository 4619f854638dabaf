"""Text as bytes: the built-in text, the user's own files, and windows over them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from recurra import options
from recurra.errors import InputError


def default_text() -> bytes:
    """The Python language reference that every CPython carries in `pydoc_data.topics`, about 0.5 MB."""
    from pydoc_data.topics import topics

    return "\n".join(topics[name] for name in sorted(topics)).encode()


def read(path: str | Path) -> bytes:
    """All bytes of a file, or of every text file below a folder in the order of their names.

    In a folder, what is hidden (its name begins with a dot) and what is binary (it holds a zero byte) is passed over.

    Raises InputError if there is nothing to read or it cannot be read.
    """
    path = options.path("path", path)
    try:
        if not path.exists():
            raise InputError(f"data {str(path)!r} does not exist; expected a file or a folder")
        if path.is_char_device() or path.is_block_device():
            raise InputError(f"data {str(path)!r} is a device, which may have no end; expected a file or a folder")
        data = b"\n".join(_texts(path)) if path.is_dir() else path.read_bytes()
    except OSError as error:
        raise InputError(f"data {str(path)!r} cannot be read: {error.strerror}: {error.filename}") from error
    if not data:
        what = "holds no text file" if path.is_dir() else "is empty"
        raise InputError(f"data {str(path)!r} {what}; expected text to learn from")
    return data


def _texts(folder: Path) -> list[bytes]:
    """The content of every text file below `folder`, in the order of their names."""
    found = (p for p in folder.rglob("*") if p.is_file() and not _hidden(p.relative_to(folder)))
    contents = (file.read_bytes() for file in sorted(found))
    return [content for content in contents if content and b"\0" not in content]


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def split(data: bytes) -> tuple[bytes, bytes]:
    """(training text, held-out text): the last tenth is held out."""
    options.instance("data", data, bytes)
    cut = len(data) - len(data) // 10
    return data[:cut], data[cut:]


def as_tensor(data: bytes) -> Tensor:
    """[len(data)] uint8."""
    return torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)


@dataclass(frozen=True)
class Windows:
    """Training text as `batch` streams side by side, read `length` bytes at a time.

    Window number n is the same whenever it is asked for. Every pass over the text starts a few bytes further on, so
    that windows do not fall on the same bytes each time.

    Raises:
        InputError: the text is too short for a single window of every stream.
    """

    data: bytes
    batch: int
    length: int

    def __post_init__(self) -> None:
        options.instance("data", self.data, bytes)
        options.count("batch", self.batch)
        options.count("length", self.length)
        if self.per_pass < 1:
            need = self.batch * (2 * self.length + 1)
            raise InputError(
                f"data holds {len(self.data)} bytes for training; {self.batch} streams of windows of {self.length} "
                f"need {need}: use a smaller batch or window"
            )

    @property
    def per_pass(self) -> int:
        """Windows in one pass over the text."""
        return (len(self.data) // self.batch - 1) // self.length - 1

    def starts(self, number: int) -> bool:
        """Whether this window begins a pass, so that no state is carried into it."""
        return number % self.per_pass == 0

    def window(self, number: int) -> Tensor:
        """[batch, length + 1] int64: each row goes on where it ended in the window before, one byte overlapping."""
        epoch, place = divmod(number, self.per_pass)
        first = epoch * 97 % self.length + place * self.length
        return self._streams[:, first : first + self.length + 1].long()

    @cached_property
    def _streams(self) -> Tensor:
        """[batch, bytes of one stream] uint8."""
        each = len(self.data) // self.batch
        return as_tensor(self.data)[: each * self.batch].view(self.batch, each)
