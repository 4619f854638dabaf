"""`python -m benchmarks.products`: linear maps by every way there is, and `recurra.Linear` beside `torch.nn.Linear`
from one row to many. Writes products.json, which docs/performance.md shows."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import recurra
from benchmarks import report
from recurra.engines.calibrate import products_table
from recurra.files import write_atomically
from recurra.memory import keep_freed_memory

FILE = Path(__file__).parent / "products.json"
GRID = ((64, 64), (128, 512), (512, 128), (192, 1), (7, 300), (256, 256), (512, 512), (1024, 1024))
"""Inputs and outputs."""
ROWS = tuple(4**power for power in range(9))
MOST = 2**34
"""Multiply-adds of the largest map of the grid."""
FASTER = 1.03
SOONER = 2e-6
"""Ours may take as many times as long as PyTorch's, or as many seconds longer."""


def best_of(ours: Callable[[], Any], theirs: Callable[[], Any], most: float = 0.5) -> tuple[float, float]:
    """Seconds of the fastest run of each, in turn, for at most that many seconds but for 5 runs at least."""
    times: tuple[list[float], list[float]] = [], []
    began = time.perf_counter()
    while len(times[0]) < 6 or (time.perf_counter() - began < most and len(times[0]) < 200):
        for run, seen in zip((ours, theirs), times, strict=True):
            start = time.perf_counter()
            run()
            seen.append(time.perf_counter() - start)
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


def shape(row: dict[str, Any]) -> str:
    """Of a map, in words."""
    return " x ".join(f"{row[size]:,}" for size in ("rows", "inputs", "outputs"))


def measured(small: bool) -> dict[str, Any]:
    """All of it."""
    ways = products_table()
    for row in ways:
        rows, inputs, outputs = (int(row[size] or 0) for size in ("rows", "inputs", "outputs"))
        ours, theirs = compared(rows // 16 if small else rows, inputs, outputs)["step"]
        work = 6e-9 * (rows // 16 if small else rows) * inputs * outputs
        row |= {"training step, ours": work / ours, "training step, torch.nn.Linear": work / theirs}
        print(shape(row), row, flush=True)
    grid = []
    for inputs, outputs in GRID:
        for rows in ROWS[: 4 if small else None]:
            if rows * inputs * outputs <= MOST:
                grid.append(compared(rows, inputs, outputs))
                print(shape(grid[-1]), [f"{a / b:.2f}" for a, b in (grid[-1]["call"], grid[-1]["step"])], flush=True)
    return {"threads": torch.get_num_threads(), "machine": report.machine(), "ways": ways, "grid": grid}


def is_kept(pair: tuple[float, float]) -> bool:
    """Whether ours takes no longer than it may."""
    ours, theirs = pair
    return ours <= FASTER * theirs or ours - theirs <= SOONER


def page(found: dict[str, Any]) -> str:
    """What docs/performance.md says of it."""
    names = [name for name in found["ways"][0] if name not in ("rows", "inputs", "outputs")]
    text = "\n## Products\n\n"
    text += (
        f"Linear maps on {found['threads']} thread(s) of {found['machine']}, billions of float operations a second,\n"
    )
    text += "float32 but for the column that says otherwise, forward where nothing is said\n"
    text += "(`python -m benchmarks.products`; `recurra calibrate` prints it for your machine).\n\n"
    text += f"| rows x in x out | {' | '.join(names)} |\n| --- |{' --- |' * len(names)}\n"
    for row in found["ways"]:
        cells = ("-" if row[name] is None else f"{row[name]:.0f}" for name in names)
        text += f"| {shape(row)} | {' | '.join(cells)} |\n"
    text += "\n`recurra.Linear` beside `torch.nn.Linear`, times of ours over PyTorch's, fastest of runs in turn:\n\n"
    text += "| in x out | what | " + " | ".join(f"{rows:,} rows" for rows in ROWS) + " |\n"
    text += "| --- | --- |" + " --- |" * len(ROWS) + "\n"
    for inputs, outputs in GRID:
        mine = {row["rows"]: row for row in found["grid"] if (row["inputs"], row["outputs"]) == (inputs, outputs)}
        for what in ("call", "step"):
            cells = (f"{mine[n][what][0] / mine[n][what][1]:.2f}" if n in mine else "" for n in ROWS)
            text += f"| {inputs:,} x {outputs:,} | {what} | {' | '.join(cells)} |\n"
    pairs = [(row, what) for row in found["grid"] for what in ("call", "step")]
    slow = [f"{shape(row)} ({what})" for row, what in pairs if not is_kept(row[what])]
    text += f"\nSlower by more than 3 % and 2 microseconds: {', '.join(slow) or 'none'} of {len(pairs)}.\n"
    return text


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.products", description=__doc__)
    parser.add_argument("--small", action="store_true", help="small sizes, to see that it runs; nothing is written")
    small = parser.parse_args().small
    keep_freed_memory()
    found = measured(small)
    if small:
        print(page(found))
    else:
        write_atomically(FILE, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
