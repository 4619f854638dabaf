"""`python -m benchmarks.products`: linear maps by every way there is, and `recurra.Linear` beside `torch.nn.Linear`
from one row to many. Writes products.json, which docs/performance.md shows."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import torch

import recurra
from benchmarks import report
from recurra.engines.calibrate import clock, products_table
from recurra.files import write_atomically
from recurra.memory import keep_freed_memory

GRID = ((64, 64), (128, 512), (512, 128), (192, 1), (7, 300), (256, 256), (512, 512), (1024, 1024))
"""Inputs and outputs."""
ROWS = tuple(4**power for power in range(9))
MOST = 2**34
"""Multiply-adds of the largest map of the grid."""


def best_of(ours: Callable[[], Any], theirs: Callable[[], Any], most: float = 0.5) -> tuple[float, float]:
    """Seconds of the fastest run of each, in turn, for at most that many seconds but for 5 runs at least."""
    times: tuple[list[float], list[float]] = [], []
    began = time.perf_counter()
    while len(times[0]) < 6 or (time.perf_counter() - began < most and len(times[0]) < 200):
        for run, seen in zip((ours, theirs), times, strict=True):
            start = clock()
            run()
            seen.append(clock() - start)
    return min(times[0][1:]), min(times[1][1:])


def step_of(layer: torch.nn.Module, x: torch.Tensor, grad: torch.Tensor) -> Callable[[], Any]:
    """A training step: forward, and the gradients of input and parameters."""
    return lambda: torch.autograd.grad(layer(x), [x, *layer.parameters()], grad)


def compared(rows: int, inputs: int, outputs: int) -> dict[str, Any]:
    """Seconds of ours and of PyTorch's, for a call without gradients and for a training step."""
    ours, theirs = recurra.Linear(inputs, outputs), torch.nn.Linear(inputs, outputs)
    x, grad = torch.randn(rows, inputs, requires_grad=True), torch.randn(rows, outputs)
    with torch.no_grad():
        call = best_of(lambda: ours(x), lambda: theirs(x))
    step = best_of(step_of(ours, x, grad), step_of(theirs, x, grad))
    return {"rows": rows, "inputs": inputs, "outputs": outputs, "call": call, "step": step}


def measured(small: bool) -> dict[str, Any]:
    """All of it."""
    ways = products_table()
    for row in ways:
        rows, inputs, outputs = (int(row[size] or 0) for size in report.SIZES)
        ours, theirs = compared(rows // 16 if small else rows, inputs, outputs)["step"]
        work = 6e-9 * (rows // 16 if small else rows) * inputs * outputs
        row |= {"training step, ours": work / ours, "training step, torch.nn.Linear": work / theirs}
        print(row, flush=True)
    grid = []
    for inputs, outputs in GRID:
        for rows in ROWS[: 4 if small else None]:
            if rows * inputs * outputs <= MOST:
                grid.append(compared(rows, inputs, outputs))
                print(grid[-1], flush=True)
    return {"threads": torch.get_num_threads(), "machine": report.machine(), "ways": ways, "grid": grid}


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.products", description=__doc__)
    parser.add_argument("--small", action="store_true", help="small sizes, to see that it runs; nothing is written")
    small = parser.parse_args().small
    keep_freed_memory()
    found = measured(small)
    if not small:
        write_atomically(report.PRODUCTS, json.dumps(found, indent=1) + "\n")
        report.put(report.products(report.PRODUCTS))


if __name__ == "__main__":
    main()
