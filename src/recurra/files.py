"""Writing files so that the final name only ever holds a whole file, and reading files and nothing else."""

from __future__ import annotations

import errno
import json
import os
import secrets
import stat
from pathlib import Path
from typing import Any

LONGEST = 2**28
"""Bytes that a file of text may have: the largest vocabularies are a tenth of that."""


def write_atomically(path: str | Path, content: bytes | str, mode: int = 0o666) -> None:
    """Write `content` beside `path`, flush it to disk, then rename it over `path`. Its folder is made if missing.

    Args:
        mode: who may read and write it, less what the umask forbids.

    Raises OSError (no space, no permission, something there that is no file), which names `path`, with what is there as
    it was before.
    """
    path = Path(path)
    data = content.encode() if isinstance(content, str) else content
    temporary = path.parent / f".{path.name}.{secrets.token_hex(4)}"
    made = False
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_file():
            raise _no_file(path, path.stat().st_mode)
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        made = True
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        if made:
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            # Of the file that was asked for, not of the temporary one.
            raise type(error)(error.errno, error.strerror, str(path)) from error
        raise


def expect_file(path: str | Path) -> int:
    """The length of a file in bytes. Raises OSError if it is none: a pipe would be waited for, a device has no end."""
    told = os.stat(path)
    if not stat.S_ISREG(told.st_mode):
        raise _no_file(path, told.st_mode)
    return told.st_size


def own_folder(path: Path) -> bool:
    """Whether a folder is this user's, and nobody else may write to it; one that is missing is made so.

    Raises OSError if it cannot be made.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return _is_own(os.stat(path))


def read_own(path: Path) -> bytes:
    """A file that nobody but this user can have written, or put where it is.

    Raises OSError if it cannot be read, or if somebody else could.
    """
    # What is looked at is what was opened, which no other file can take the place of in between.
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    with os.fdopen(handle, "rb") as file:
        told = os.fstat(handle)
        if not stat.S_ISREG(told.st_mode) or not _is_own(told) or not _is_own(os.stat(path.parent)):
            raise PermissionError(errno.EPERM, "others may have written it", str(path))
        return file.read()


def inside(folder: str | Path, name: str) -> Path:
    """The path of a file of a folder that may have come from anywhere.

    Raises ValueError if a link leads out of the folder: it could name any file of the reader's, to be passed on with
    the next copy. The folders of a hub's cache are told by their shape: they are links to the blobs beside them.
    """
    home, real = Path(os.path.realpath(folder)), Path(os.path.realpath(os.path.join(folder, name)))
    stores = [place.parent / "blobs" for place in home.parents if place.name == "snapshots"]
    if not real.is_relative_to(home) and real.parent not in stores:
        raise ValueError(f"it is a link out of its folder, to {str(real)!r}; put the file itself there")
    return Path(folder) / name


def read_text(path: str | Path) -> str:
    """A file of text, in UTF-8. Raises OSError if it cannot be read or is no file, ValueError if it is no text."""
    if (size := expect_file(path)) > LONGEST:
        raise ValueError(f"it is {size} bytes long; expected at most {LONGEST}")
    return Path(path).read_text(encoding="utf-8")


def read_json(path: str | Path) -> dict[str, Any]:
    """A file that holds a JSON object. Raises OSError or ValueError as `read_text`, and ValueError if it is none."""
    try:
        value = json.loads(read_text(path))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(value, dict):
        raise ValueError(f"it holds a {type(value).__name__}; expected an object, {{...}}")
    return value


def _is_own(told: os.stat_result) -> bool:
    """Whether this user owns it and nobody else may write to it. Other systems than Posix have no such marks."""
    return os.name != "posix" or (told.st_uid == os.geteuid() and not told.st_mode & (stat.S_IWGRP | stat.S_IWOTH))


def _no_file(path: str | Path, mode: int) -> OSError:
    kind = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
    return OSError(kind, os.strerror(kind) if stat.S_ISDIR(mode) else "neither a file nor a folder", str(path))
