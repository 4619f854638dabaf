"""Kernels by what they do: kept in this process, and as files for the next one.

A kernel's file holds its machine code with a checksum; beside it lies its generated source. A file that is damaged or
was made by another version is made anew. Set RECURRA_CACHE_DIR to keep the files elsewhere than in the user's cache.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from recurra.compiler.codegen.kernels import Kernel
from recurra.compiler.targets import host
from recurra.files import write_atomically

VERSION = "20"
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
    """Where kernels are kept."""
    chosen = os.environ.get("RECURRA_CACHE_DIR")
    base = os.environ.get("XDG_CACHE_HOME")
    return Path(chosen) if chosen else (Path(base) if base else Path.home() / ".cache") / "recurra"


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
        digest, facts, code = path.with_suffix(".kernel").read_bytes().split(b"\n", 2)
        if hashlib.sha256(facts + b"\n" + code).hexdigest().encode() != digest:
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
        path.parent.mkdir(parents=True, exist_ok=True)
        comments = "".join(f"; {line}\n" for line in about.splitlines())
        write_atomically(path.with_suffix(".ll"), comments + "\n" + kernel.ir)
        write_atomically(path.with_suffix(".kernel"), hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
    return _load(path, code, facts)


def _load(path: Path, code: bytes, facts: dict) -> Loaded:
    run, share = host.load_functions(code, "run", "share")
    kind = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 3, *[ctypes.c_int64] * 2)
    names = facts["pointers"], facts["integers"]
    memory = facts["scratch"], facts["shared"], facts["cleared"], facts["dealt"]
    return Loaded(kind(run), *names, run, share, *memory, path.with_suffix(".ll"))
