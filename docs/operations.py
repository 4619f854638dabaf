"""What becomes of every operation inside a step: docs/operations.csv, and the table of it in the guide.

The rows say which operations there are; `make operations` (`python docs/operations.py`) finds out the rest anew.
"""

from __future__ import annotations

import csv
import math
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recurra import Lane, Recurrence
from recurra.testing.tolerances import assert_close

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "docs/operations.csv"
GUIDE = ROOT / "docs/adding-a-recurrence.md"
IN_SINGLE = {"F.hardsigmoid(h)": "PyTorch has a sixth of float32 in float64, too"}
"""What is held to the digits of float32, and why."""
FIRST, LAST = "<!-- made by `make operations` -->", "<!-- until here -->"
LIBRARIES = {"torch": torch, "F": F, "nn": nn, "math": math, "np": np}


NAMES: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "h": lambda h, x: h,
    "x": lambda h, x: x,
    "a": lambda h, x: h.view(2, 3),
    "b": lambda h, x: x.view(2, 3),
    "m": lambda h, x: 2 * torch.eye(3, dtype=h.dtype) + torch.tanh(torch.outer(h[:3], x[3:])),
    "s": lambda h, x: torch.eye(3, dtype=h.dtype) + torch.outer(h[:3], h[:3]),
    "big": lambda h, x: 4 * torch.eye(9, dtype=h.dtype) + torch.outer(torch.tanh(h.repeat(2)[:9]), x.repeat(2)[:9]),
    "z": lambda h, x: torch.complex(h, x),
    "w": lambda h, x: torch.complex(x + 1.5, 0.5 * h),
    "c": lambda h, x: torch.complex(
        2 * torch.eye(3, dtype=h.dtype) + torch.outer(h[:3], x[3:]), x.repeat(2)[:9].view(3, 3)
    ),
    "k": lambda h, x: torch.argmax(x),
    "index": lambda h, x: torch.tensor([2, 0, 1, 5, 4, 3]),
    "edges": lambda h, x: torch.tensor([-1.0, 0.0, 0.5], dtype=h.dtype),
    "ones": lambda h, x: torch.ones(6, 6, 6, dtype=h.dtype),
}
"""What operations are written with, made of two vectors of six numbers: of two vectors, a to c matrices, z, w and c
complex, m, s and c invertible, s symmetric, k a number that the example decides."""


def module_of(operation: str) -> nn.Module | None:
    """The module that an operation is, if it is one."""
    return eval(operation, dict(LIBRARIES)) if operation.startswith("nn.") else None


def result(operation: str, module: nn.Module | None, h: Tensor, x: Tensor) -> Tensor:
    """What an operation gives, as real numbers in one row."""
    scope = LIBRARIES | {name: NAMES[name](h, x) for name in re.findall(r"[a-z]+", operation) if name in NAMES}
    if module is not None:
        y = applied(module, h, x)
    elif re.match(r"y\b.* = ", operation):
        exec(operation, scope)
        y = scope["y"]
    else:
        y = eval(operation, scope)
    y = torch.as_tensor(y)
    return (torch.view_as_real(y.resolve_conj()) if y.is_complex() else y).flatten().to(h.dtype)


def applied(module: nn.Module, h: Tensor, x: Tensor) -> Tensor:
    """A module called as its kind is."""
    kind = type(module).__name__
    if kind == "LSTMCell":
        return torch.cat(module(x, (h, 0.5 * h)))
    if kind in ("GRUCell", "RNNCell"):
        return module(x, h)
    if kind == "Bilinear":
        return module(h, x)
    if kind == "MultiheadAttention":
        both = torch.stack([h, x])
        return module(both, both, both)[0]
    if kind == "Embedding":
        return module(torch.tensor([2, 0]))
    if kind in ("GroupNorm", "TransformerEncoderLayer"):
        return module(torch.stack([h, x]))
    return module(h.view(1, 1, 6) if kind == "Conv1d" else h)


class Operation(Recurrence):
    """A step with one operation: every number of its result reaches the new state with a weight of its own."""

    lane = Lane.LAYER

    def __init__(self, operation: str):
        super().__init__(6)
        self.operation = operation
        self.module = module_of(operation)

    def start(self) -> dict[str, Tensor]:
        return {"h": torch.tensor([0.3, -0.8, 1.1, 0.2, -0.4, 0.7])}

    def inputs(self, x: Tensor) -> dict[str, Tensor]:
        return {"x": x}

    def step(self, h: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        r = result(self.operation, self.module, h, x)
        places = torch.arange(6)[:, None] * 7 + torch.arange(r.shape[0]) * 3
        h = torch.tanh(x + 0.5 * torch.cos(places.to(h.dtype)) @ r)
        return h, h


def rows() -> list[dict[str, str]]:
    """The operations by group, with what became of them when this was last found out."""
    with RESULTS.open(newline="") as file:
        return list(csv.DictReader(file))


def outcome(operation: str) -> tuple[str, str]:
    """What becomes of an operation ("compiled", "replay", "loop", "refused" or "differs"), and why."""
    layer = Operation(operation).double()
    x = torch.randn(2, 3, 6, dtype=torch.float64)
    reason = None
    try:
        refusals = layer.refusals(x)
        reason = refusals["compiled"]
        engine = next((name for name in ("compiled", "replay") if refusals[name] is None), "loop")
        got = found(layer, x, lambda x: layer(x, engine=engine)[0])
        expected = found(layer, x, lambda x: by_hand(layer, x))
        for name, value in expected.items():
            assert_close(name, got[name], value, torch.float32 if operation in IN_SINGLE else None)
    except AssertionError as error:
        return "differs", str(error)
    except Exception as error:
        return "refused", str(reason or error).split(" at /")[0].split("\n")[0]
    return engine, "" if reason is None else reason.split(" at /")[0]


def by_hand(layer: Operation, x: Tensor) -> Tensor:
    """What a layer gives, step by step and sequence by sequence."""
    rows = []
    for sequence in x:
        h, ys = layer.start()["h"].to(x.dtype), []
        for x_t in sequence:
            h, y = layer.step(h, x_t)
            ys.append(y)
        rows.append(torch.stack(ys))
    return torch.stack(rows)


def found(layer: Operation, x: Tensor, run: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """What a call gives and its gradients, where PyTorch has them."""
    x = x.clone().requires_grad_()
    wanted = {"x": x, **dict(layer.named_parameters())}
    try:
        y = run(x)
        grads = torch.autograd.grad((y * torch.cos(torch.arange(y.numel())).view(y.shape)).sum(), list(wanted.values()))
    except RuntimeError as error:
        if not re.search("derivative|differentiation", str(error)):
            raise
        with torch.no_grad():
            return {"y": run(x.detach())}
    return {"y": y.detach()} | {f"gradient of {name}": grad for name, grad in zip(wanted, grads, strict=True)}


def table(found: list[dict[str, str]]) -> str:
    """The part of the guide on operations."""
    lines = ["| | compiled | replayed | on the loop, or refused |", "| --- | --- | --- | --- |"]
    for group in dict.fromkeys(row["group"] for row in found):
        own = [row for row in found if row["group"] == group]
        outcomes = (("compiled",), ("replay",), ("loop", "refused", "differs"))
        parts = ([row for row in own if row["outcome"] in kinds] for kinds in outcomes)
        cells = (", ".join(f"`{word}`" for word in dict.fromkeys(map(short, part))) for part in parts)
        lines.append(f"| {group} | {' | '.join(cells)} |")
    return "\n".join(lines)


def short(row: dict[str, str]) -> str:
    """An operation by its name, where it is the call of one."""
    operation = row["operation"].replace("|", "\\|")
    call = re.fullmatch(r"(?:torch\.|F\.|nn\.|[hzabmxc]\.)([\w.]+)\((.*)\)(?:\.\w+|\[\d\])?", operation)
    depths = [call[2][:i].count("(") - call[2][:i].count(")") for i in range(len(call[2]) + 1)] if call else [-1]
    return call[1] if call and min(depths) >= 0 else operation


def main() -> None:
    """Find out all outcomes, and write both files."""
    warnings.simplefilter("ignore")
    listed = rows()
    for row in listed:
        row["outcome"], row["note"] = outcome(row["operation"])
        if row["outcome"] == "differs":
            print(row)
    with RESULTS.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(listed[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(listed)
    before, rest = GUIDE.read_text().split(FIRST)
    GUIDE.write_text(f"{before}{FIRST}\n\n{table(listed)}\n\n{LAST}{rest.split(LAST)[1]}")


if __name__ == "__main__":
    main()
