"""Kernels by what they do: kept in this process, and as files for the next one.

A kernel's file holds its machine code with a checksum; beside it lies its generated source. A file that is damaged or
was made by another version is made anew. Set RECURRA_CACHE_DIR to keep the files elsewhere than in the user's cache.

A checksum says that a file is whole, not who wrote it, and machine code does whatever it likes: so only files are run
that nobody but the user can have put there.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import json
import os
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from recurra.compiler.codegen.kernels import Kernel
from recurra.compiler.targets import host
from recurra.files import own_folder, read_own, write_atomically

VERSION = "25"
"""Raised whenever the same graph would be written differently."""

_kernels: dict[str, Loaded] = {}
_lock = threading.RLock()
_built = 0


@dataclass(frozen=True, eq=False)
class Loaded:
    """Machine code ready to be called."""

    run: Callable[..., None]
    """run(pointers, integers, scratch, first item, last item); the interpreter is free meanwhile."""
    pointers: list[str]
    integers: list[str]
    address: int
    """Of `run`."""
    share: int
    """Address of the function that runs one thread's share; see `kernels.SHARE`."""
    scratch: int
    shared: int
    cleared: int
    dealt: int
    source: Path


def folder() -> Path:
    """Where kernels are kept. It need not be there, nor be the user's alone."""
    if chosen := os.environ.get("RECURRA_CACHE_DIR"):
        return Path(chosen)
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "recurra"
    try:
        return Path.home() / ".cache" / "recurra"
    except RuntimeError:  # a user id without an entry, as in containers
        return Path(os.environ.get("TMPDIR", "/tmp")) / f"recurra-{os.geteuid()}"


def built() -> int:
    """Kernels that this process compiled or loaded from a file so far."""
    return _built


def get(key: str, write: Callable[[], Kernel], about: Callable[[], str]) -> Loaded:
    """The kernel of that key: from memory, from its file, or written by `write` and compiled.

    Args:
        key: names graph, dtype, layout and variant; processor and version are added here.
        about: gives what is put at the head of the generated source as comments.
    """
    global _built
    if key in _kernels:
        return _kernels[key]
    with _lock:
        if key not in _kernels:
            name = hashlib.sha256("\0".join((VERSION, host.features(), key)).encode()).hexdigest()[:32]
            loaded = _read(folder() / name) or _make(folder() / name, write(), about())
            _kernels[key] = loaded
            _built += 1
        return _kernels[key]


def _read(path: Path) -> Loaded | None:
    """A kernel from its file, or None if there is none that can be trusted."""
    try:
        digest, facts, code = read_own(path.with_suffix(".kernel")).split(b"\n", 2)
        if digest != _digest(path, facts + b"\n" + code):
            return None
        return _load(path, code, json.loads(facts))
    except (OSError, ValueError, KeyError, RuntimeError):
        return None


def _make(path: Path, kernel: Kernel, about: str) -> Loaded:
    code = host.compile_object(kernel.ir)
    facts = {name: value for name, value in vars(kernel).items() if name != "ir"}
    body = json.dumps(facts).encode() + b"\n" + code
    # Without a place to write to, the kernel serves this process only.
    with contextlib.suppress(OSError):
        if own_folder(path.parent):
            comments = "".join(f"; {line}\n" for line in about.splitlines())
            write_atomically(path.with_suffix(".ll"), comments + "\n" + kernel.ir, mode=0o600)
            write_atomically(path.with_suffix(".kernel"), _digest(path, body) + b"\n" + body, mode=0o600)
        else:
            _warn(path.parent)
    return _load(path, code, facts)


def _digest(path: Path, body: bytes) -> bytes:
    """Of a kernel's file, its name with it: one kernel is not run for another."""
    return hashlib.sha256(path.name.encode() + b"\n" + body).hexdigest().encode()


@functools.cache
def _warn(folder: Path) -> None:
    """Say it once."""
    warnings.warn(
        f"compiled code is not kept for the next process, since others may write to {str(folder)!r}: name a folder of "
        "your own by RECURRA_CACHE_DIR, or run chmod go-w on that one",
        stacklevel=2,
    )


def _load(path: Path, code: bytes, facts: dict) -> Loaded:
    run, share = host.load_functions(code, "run", "share")
    kind = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 3, *[ctypes.c_int64] * 2)
    names = facts["pointers"], facts["integers"]
    memory = facts["scratch"], facts["shared"], facts["cleared"], facts["dealt"]
    return Loaded(kind(run), *names, run, share, *memory, path.with_suffix(".ll"))
