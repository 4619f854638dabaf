"""Keeping freed memory in the process, so that large tensors do not cost page faults each time they are made."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
"""Parameters of glibc's mallopt."""


def keep_freed_memory() -> bool:
    """Let the C allocator reuse large blocks instead of giving them back to the system at once.

    A fresh block of 64 MB costs 16,384 page faults, several times what it takes to fill it. PyTorch on the CPU pays
    this for every large tensor, in every operation. This changes the whole process, so the library never calls it by
    itself; the command line does. Only glibc can do it.

    Returns:
        whether the allocator took the setting.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))
