"""What has no graph, and where in the user's file it is."""

from __future__ import annotations

import linecache
import sys
import traceback

from recurra.errors import RecurraError

LIBRARY = ("torch/", "recurra/compiler/", "recurra/recurrence.py", "recurra/check", "recurra/engines/")
RANDOM = (
    "draws random numbers{at}: draw them in inputs, for all time steps, and read them in step: "
    "torch.rand_like(x), or F.dropout(torch.ones_like(x), p, self.training)"
)
"""What a step does that draws numbers itself, and the way out."""


class Untraceable(RecurraError):
    """`step` does something that has no graph; the message says what and where."""


def refusal(name: str) -> str:
    """Why an operation has no graph."""
    if name in ("_local_scalar_dense", "item", "is_nonzero", "equal", "nonzero"):
        return f"step decides by the value of a tensor (if, while, int(), .item()){where()}: use torch.where"
    return f"step uses {name.removeprefix('prims::')}, which has no rule{where()}{_source()}"


def where() -> str:
    """Where in the step this is: " at file:line", or nothing."""
    line = user_line()
    return f" at {line}" if line else ""


def _source() -> str:
    """What the user wrote there, since inside of PyTorch it may have another name: ", in `line`", or nothing."""
    file, _, number = user_line().rpartition(":")
    source = linecache.getline(file, int(number)).strip() if file else ""
    return f", in `{source}`" if source else ""


def within_library() -> bool:
    """Whether it is this library that asked."""
    files = (frame.f_code.co_filename.replace("\\", "/") for frame, _ in traceback.walk_stack(sys._getframe(2)))
    asking = next((file for file in files if "torch/" not in file), "")
    return "recurra/compiler/" in asking or "recurra/engines/" in asking


def user_line() -> str:
    """The innermost line outside PyTorch and this library's machinery, as "file:line"."""
    for frame, line in traceback.walk_stack(sys._getframe()):
        name = frame.f_code.co_filename.replace("\\", "/")
        if not any(part in name for part in LIBRARY) and not name.startswith("<"):
            return f"{name}:{line}"
    return ""
