"""Keeping torch.compile out of what is compiled already."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


def unseen(function: Callable[P, R]) -> Callable[P, R]:
    """Decorator: torch.compile calls the function and does not look into it."""

    @functools.cache
    def disabled() -> Callable:
        return torch.compiler.disable(function)

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        # Importing torch._dynamo takes a second; nobody who has not imported it is compiling.
        return (disabled() if "torch._dynamo" in sys.modules else function)(*args, **kwargs)

    # What torch.compiler.disable sets, without importing the compiler.
    call._torchdynamo_disable = True  # type: ignore[attr-defined]
    return call
