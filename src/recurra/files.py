"""Writing files so that the final name only ever holds a whole file."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def write_atomically(path: str | Path, content: bytes | str) -> None:
    """Write `content` beside `path`, flush it to disk, then rename it over `path`. Its folder is made if missing.

    Raises OSError (no space, no permission), which names `path`, with what is there as it was before.
    """
    path = Path(path)
    data = content.encode() if isinstance(content, str) else content
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError):
            # Of the file that was asked for, not of the temporary one.
            raise type(error)(error.errno, error.strerror, str(path)) from error
        raise
