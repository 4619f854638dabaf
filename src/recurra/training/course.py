"""How a training went: a line for each step in a file, which survives a process that is killed."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recurra.errors import InputError, one_line
from recurra.files import expect_file, write_atomically

METRICS = "metrics.jsonl"


class Course:
    """One JSON object per logged step, the file METRICS of a folder."""

    def __init__(self, folder: Path):
        self.path = folder / METRICS

    def log(self, row: Mapping[str, float], durable: bool = True) -> None:
        """Add a line; one that does not fit on the disk is taken back. Without `durable` it outlives the process, but
        not a machine that stops."""
        line = json.dumps(row).encode() + b"\n"
        with open(self.path, "ab", buffering=0) as file:
            size = file.tell()
            try:
                if file.write(line) < len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
                if durable:
                    os.fsync(file.fileno())
            except OSError:
                file.truncate(size)
                raise

    def drop_after(self, step: int) -> None:
        """Keep what was logged up to `step`; what a killed process logged beyond its last checkpoint will come again.

        Raises InputError if a line is no metrics.
        """
        kept = [line for line, row in self._lines() if row["step"] <= step]
        write_atomically(self.path, b"".join(kept))

    def rows(self) -> list[dict[str, Any]]:
        """All that was logged. Raises InputError if a line is no metrics."""
        return [row for _, row in self._lines()]

    def _lines(self) -> list[tuple[bytes, dict[str, Any]]]:
        """Whole lines, and what they say."""
        try:
            expect_file(self.path)
            lines = [line for line in self.path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
            found = [(line, json.loads(line)) for line in lines]
            return [(line, row | {"step": int(row["step"])}) for line, row in found]
        except FileNotFoundError:
            return []
        except (ValueError, KeyError, TypeError, ArithmeticError, RecursionError) as error:
            raise InputError(
                f"{str(self.path)!r} holds a line that is no metrics: {one_line(error)}; move it away"
            ) from error
