"""`python -m benchmarks.shelf`: every layer that is not attention, its compiled training step against the reference
loop and its first call. Writes shelf.json and from it docs/shelf.md.

Every layer is measured in a process of its own, on one thread and by the time of that process alone, with an empty
folder for compiled code: so what else the machine does counts little.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from typing import Any

import torch

import recurra
from benchmarks import report
from benchmarks.layers import train
from benchmarks.measure import median, timed
from recurra.catalogue import FAMILIES
from recurra.files import write_atomically

RESULTS, PAGE = report.ROOT / "benchmarks/shelf.json", report.ROOT / "docs/shelf.md"
SHAPE = (4, 256, 64)
"""Batch, time steps, channels."""
RATIO, MEAN, FIRST = 10.0, 25.0, 3.0
"""Asked for: how many times as fast as the loop each is, and all are in the mean; seconds of a first call."""
COMPILED, LOOP = 9, 2
"""How often each is timed. The loop takes seconds."""
INTRODUCTION = """# The shelf

Made by `python -m benchmarks.shelf`; do not edit. Every layer of the library that is not attention, at its usual
options: a training step (forward, and the gradients of input and parameters) of {shape} numbers in float32, by the
compiled loop and by the reference loop, which is what a step costs where nothing compiles it; and the first call,
forward and backward, of a fresh process that has no compiled code. On one thread of {machine}, torch {torch}, by the
time that the process itself took.

Asked for are {ratio:g} times the speed of the loop for each, {mean:g} times in the geometric mean, and less than
{first:g} seconds for a first call.

"""


def names() -> list[str]:
    """The layers that are measured."""
    return [name for family, those in FAMILIES.items() if family != "attention" for name in those.layers]


def measured(name: str) -> dict[str, Any]:
    """One layer in this process, which has not run any yet."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    layer, x = recurra.layer(name, SHAPE[-1]), torch.randn(SHAPE, requires_grad=True)
    torch.nn.functional.linear(x, torch.randn(8, SHAPE[-1])).sum().backward()  # what PyTorch itself does once
    ours, loop = train(layer, x, engine="compiled"), train(layer, x, engine="loop")
    first = timed(ours, time.process_time) / 1e3
    fast, slow = ([timed(work, time.process_time) for _ in range(n)] for work, n in ((ours, COMPILED), (loop, LOOP)))
    return {"layer": name, "compiled_ms": median(fast), "loop_ms": min(slow), "first_s": first}


def alone(name: str) -> dict[str, Any]:
    """One layer in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        found = subprocess.run(
            [sys.executable, "-m", "benchmarks.shelf", "--alone", name],
            env=os.environ | {"RECURRA_CACHE_DIR": folder, "OMP_NUM_THREADS": "1"},
            cwd=report.ROOT,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
    row: dict[str, Any] = json.loads(found.stdout)
    return row


def page(results: dict[str, Any]) -> str:
    """The text of docs/shelf.md."""
    rows = [row | {"ratio": row["loop_ms"] / row["compiled_ms"]} for row in results["rows"]]
    mean = math.exp(sum(math.log(row["ratio"]) for row in rows) / len(rows))
    slow = [f"`{row['layer']}` ({row['ratio']:.1f})" for row in rows if row["ratio"] < RATIO]
    late = [f"`{row['layer']}` ({row['first_s']:.1f} s)" for row in rows if row["first_s"] >= FIRST]
    told = {
        f"Geometric mean of {len(rows)} layers": f"{mean:.1f}",
        f"Below {RATIO:g} times": ", ".join(slow) or "none",
        f"First call of {FIRST:g} seconds or more": ", ".join(late) or "none",
    }
    lines = [f"- {what}: {found}." for what, found in told.items()]
    lines += ["", "| layer | compiled, ms | loop, ms | ratio | first call, s |", "| --- | --- | --- | --- | --- |"]
    lines += [
        f"| `{row['layer']}` | {row['compiled_ms']:.1f} | {row['loop_ms']:,.0f} | {row['ratio']:.1f} "
        f"| {row['first_s']:.2f} |"
        for row in sorted(rows, key=lambda row: row["ratio"])
    ]
    head = INTRODUCTION.format(
        shape=SHAPE, machine=results["machine"], torch=results["torch"], ratio=RATIO, mean=MEAN, first=FIRST
    )
    return head + "\n".join(lines) + "\n"


def write(found: list[dict[str, Any]]) -> None:
    """Put rows into shelf.json, in the place of what it had of these layers, and write the page."""
    kept = json.loads(RESULTS.read_text())["rows"] if RESULTS.exists() else []
    rows = {row["layer"]: row for row in [*kept, *found]}
    results = {
        "machine": report.machine(),
        "torch": torch.__version__,
        "rows": [rows[name] for name in names() if name in rows],
    }
    write_atomically(RESULTS, json.dumps(results, indent=1) + "\n")
    write_atomically(PAGE, page(results))


def main() -> None:
    """Measure the layers named, or all."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.shelf", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="LAYER", help="only these; the rest stays as it was measured")
    parser.add_argument("--json", action="store_true", help="print rows as JSON; nothing is written")
    parser.add_argument("--alone", metavar="LAYER", help="measure this one in this very process, and print it")
    options = parser.parse_args()
    if options.alone:
        print(json.dumps(measured(options.alone)))
        return
    found = []
    for name in options.names or names():
        found.append(alone(name))
        if not options.json:
            print(found[-1], flush=True)
            write(found)
    if options.json:
        print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
