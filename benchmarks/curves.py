"""`python -m benchmarks.curves`: what the pictures of docs/engines.md and docs/newton.md show, into curves.json."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import recurra
from benchmarks.state_tracking import trained
from recurra.engines import choose
from recurra.files import write_atomically
from recurra.memory import keep_freed_memory

FILE = Path(__file__).parent / "curves.json"
SHAPES = {
    "min-gru": ("affine: min-gru, 1 sequence, 64 channels", 64),
    "s4d": ("constant coefficients: s4d, 1 sequence, 16 channels", 16),
    "diagonal-gru": ("nonlinear: diagonal-gru, 1 sequence, 64 channels", 64),
    "gated-delta-net": ("delta rule: gated-delta-net, 1 sequence, 64 channels", 64),
}
LIMIT = 1.5
"""Seconds; an engine that took longer is not asked for more time steps."""


def main() -> None:
    """Measure everything and write it."""
    keep_freed_memory()
    curves = {name: {"title": title, "milliseconds": engine_times(name, width)}
              for name, (title, width) in SHAPES.items()}  # fmt: skip
    newton = {name: trained(name, steps=300, every=20) for name in ("diagonal-gru", "diagonal-lstm")}
    write_atomically(FILE, json.dumps({"engines": curves, "newton": newton}, indent=1) + "\n")


def engine_times(name: str, width: int) -> dict[str, list[tuple[int, float]]]:
    """For every engine that can run a layer: (time steps, milliseconds forward)."""
    layer = recurra.layer(name, width)
    times: dict[str, list[tuple[int, float]]] = {}
    for steps in (256, 1024, 4096, 16384, 65536, 262144):
        problem = layer.problem(torch.randn(1, steps, width))
        for engine, module in choose.ENGINES.items():
            known = times.setdefault(engine, [])
            slow = known and known[-1][1] * steps / known[-1][0] > 1e3 * LIMIT
            if module.refuses(problem) is None and not slow and (known or steps == 256):
                with torch.no_grad():
                    known.append((steps, 1e3 * _best(lambda m=module, p=problem: m.run(p))))  # type: ignore[misc]
    return {engine: known for engine, known in times.items() if known}


def _best(work: Callable[[], Any]) -> float:
    work()
    best = float("inf")
    for _ in range(3):
        begin = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - begin)
    return best


if __name__ == "__main__":
    main()
