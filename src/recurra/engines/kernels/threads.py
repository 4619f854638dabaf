"""Running a kernel's items on as many threads as PyTorch is told to use.

The threads are PyTorch's own: its OpenMP library is asked to run a team. Threads of another kind would fight for the
cores with those, which keep spinning for a while after each operation.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from recurra.compiler.targets.cache import Loaded

_process = os.getpid()


@dataclass(frozen=True)
class Task:
    """Kernels that run one after the other, and their arguments."""

    kernels: Sequence[Loaded]
    pointers: Sequence[Any]
    """Of each kernel."""
    integers: Any
    scratch: int
    scratch_bytes: int
    """Per thread."""
    items: int

    @functools.cached_property
    def packed(self) -> tuple[Any, ...]:
        """What `share` of a kernel takes, an array, and what it points to."""
        openmp, number = _openmp(), len(self.kernels)
        assert openmp is not None
        functions = (ctypes.c_void_p * number)(*(kernel.address for kernel in self.kernels))
        arguments = (ctypes.c_void_p * number)(*map(ctypes.addressof, self.pointers))
        lists = ctypes.addressof(functions), ctypes.addressof(arguments), ctypes.addressof(self.integers)
        array = (ctypes.c_int64 * 9)(
            number, *lists, self.scratch, self.scratch_bytes, self.items, openmp.number, openmp.count
        )
        return array, functions, arguments


@dataclass(frozen=True)
class _OpenMP:
    parallel: Any
    number: int
    count: int


@functools.cache
def _openmp() -> _OpenMP | None:
    """PyTorch's OpenMP library, if it is GNU's."""
    for path in (Path(torch.__file__).parent / "lib").glob("libgomp*.so*"):
        library = ctypes.CDLL(str(path))
        parallel = library.GOMP_parallel
        parallel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
        parallel.restype = None
        number, count = (
            ctypes.cast(getattr(library, f"omp_get_{what}"), ctypes.c_void_p).value
            for what in ("thread_num", "num_threads")
        )
        assert number is not None
        assert count is not None
        return _OpenMP(parallel, number, count)
    return None


def count() -> int:
    """Threads to use: as many as PyTorch, and one in a process that was forked, where OpenMP cannot start more."""
    return torch.get_num_threads() if os.getpid() == _process else 1


def run(task: Task, threads: int) -> None:
    """Run all items of a task, on one kernel after the other; the interpreter is free for other Python threads."""
    threads = min(threads, task.items)
    if threads == 1:
        for kernel, pointers in zip(task.kernels, task.pointers, strict=True):
            kernel.run(pointers, task.integers, task.scratch, 0, task.items)
        return
    openmp = _openmp()
    if openmp is None:
        for kernel, pointers in zip(task.kernels, task.pointers, strict=True):
            _run_on_pool(kernel, pointers, task, threads)
        return
    openmp.parallel(task.kernels[0].share, task.packed[0], threads, 0)


def _run_on_pool(kernel: Loaded, pointers: Any, task: Task, threads: int) -> None:
    """Where PyTorch comes with another threading library."""

    def share(i: int) -> None:
        first, last = task.items * i // threads, task.items * (i + 1) // threads
        kernel.run(pointers, task.integers, task.scratch + i * task.scratch_bytes, first, last)

    list(_pool(threads).map(share, range(threads)))


@functools.cache
def _pool(size: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(size, thread_name_prefix="recurra")
