"""What is not the user's own: PyTorch, other installed packages, Python, and this library. It does not change."""

from __future__ import annotations

import functools
import os
import sys
import types
from pathlib import Path
from typing import Any

_PLACES = tuple(f"{Path(file).resolve().parent}/" for file in (os.__file__, Path(__file__).parent))
"""Where Python and this library lie."""
_PACKAGES = {"site-packages", "dist-packages"}
"""Folders of installed code."""
COMPUTING = frozenset({
    "torch", "recurra", "builtins", "math", "cmath", "operator", "functools", "itertools", "collections", "typing",
    "types", "enum", "dataclasses", "numbers", "abc", "contextlib", "copy", "einops",
})  # fmt: skip
"""Packages that do nothing but compute from what they are given: no clocks, dice, files or counters."""


def is_foreign(value: Any) -> bool:
    """Whether a function, a class or a Python module is not the user's own."""
    if isinstance(value, types.FunctionType):
        return _installed(value.__code__.co_filename)
    module = value if isinstance(value, types.ModuleType) else sys.modules.get(value.__module__)
    file = getattr(module, "__file__", None)
    if file is None:
        # Built in, or typed into a session.
        return module is not None and module.__name__ != "__main__"
    return _installed(file)


def only_computes(value: Any) -> bool:
    """Whether a function, a class or a Python module, or its name, belongs to packages that do nothing else."""
    if isinstance(value, types.ModuleType):
        value = value.__name__
    elif not isinstance(value, str):
        # Methods of objects in C have no module.
        value = getattr(value, "__module__", None) or ""
    return value.partition(".")[0].lstrip("_") in COMPUTING


@functools.cache
def _installed(file: str) -> bool:
    path = Path(file).resolve()
    return file.startswith("<frozen") or str(path).startswith(_PLACES) or not _PACKAGES.isdisjoint(path.parts)
