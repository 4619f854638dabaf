"""Running a kernel's items on as many threads as PyTorch is told to use."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch

_pools: dict[tuple[int, int], ThreadPoolExecutor] = {}


def split(items: int, threads: int) -> list[tuple[int, int]]:
    """(first, last) of nearly equal shares of `items`, none empty."""
    threads = max(1, min(items, threads))
    cuts = [items * i // threads for i in range(threads + 1)]
    return list(zip(cuts[:-1], cuts[1:], strict=True))


def run(work: Callable[[int, int, int], None], items: int, threads: int) -> None:
    """Call `work(share number, first, last)` for every share at once; the caller's thread does the first."""
    shares = split(items, threads)
    if len(shares) == 1:
        work(0, *shares[0])
        return
    others = [_pool(len(shares) - 1).submit(work, i, *share) for i, share in enumerate(shares) if i]
    work(0, *shares[0])
    for other in others:
        other.result()


def count() -> int:
    """Threads to use."""
    return torch.get_num_threads()


def _pool(size: int) -> ThreadPoolExecutor:
    """A pool of this process; one that a fork copied has no threads behind it and is not used."""
    key = (os.getpid(), size)
    if key not in _pools:
        _pools[key] = ThreadPoolExecutor(size, thread_name_prefix="recurra")
    return _pools[key]
