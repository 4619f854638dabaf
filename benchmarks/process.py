"""What only a fresh process shows: start-up times and peak memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.measure import Row, measured
from benchmarks.report import BITS, SECONDS

TOPIC = "Start-up and memory"

FIRST_CALL = """
import time, torch
import recurra
layer = recurra.layer({name!r}, 64)
x = torch.randn(4, 64, 64, requires_grad=True)
(layer.to(x.dtype), torch.nn.functional.linear(x, torch.randn(8, 64)).sum().backward())
began = time.perf_counter()
layer(x)[0].sum().backward()
print(time.perf_counter() - began)
"""

IMPORT = """
import torch, time
began = time.perf_counter()
import recurra
recurra.layer("gru", 8)
print(time.perf_counter() - began)
"""

COMMAND = """
import subprocess, sys, time
began = time.perf_counter()
subprocess.run([sys.executable, "-m", "recurra.cli.main", {argument!r}], check=True, stdout=subprocess.DEVNULL)
print(time.perf_counter() - began)
"""

MEMORY = """
import torch
from recurra import registry
from recurra.engines import compiled
time, width = {time}, 256
layer = registry.layer("min-gru", width)
problem = layer.problem(torch.zeros(1, 4, width))
from dataclasses import replace
from recurra.problem import StepInput
def run(time):
    entries = {{name: StepInput(torch.rand(1, time, width, requires_grad=True)) for name in problem.inputs}}
    grad = torch.rand(1, time, width)
    y = compiled.run(replace(problem, inputs=entries, time=time)).y
    torch.autograd.grad(y, [entry.tensor for entry in entries.values()], grad)
def peak():
    with open("/proc/self/status") as status:
        return 1024 * int(next(line for line in status if line.startswith("VmHWM")).split()[1])
run(64)
before = peak()
run(time)
used = peak() - before
print(used / (time * width * 4 * 6))
"""


def rows(small: bool) -> Iterator[Row]:
    """All rows of this file."""
    yield measured(TOPIC, "import recurra and one layer, beyond torch", _best(IMPORT), "seconds", "<= 0.3")
    yield measured(TOPIC, "recurra --help", _best(COMMAND.format(argument="--help")), "seconds", "<= 1.0")
    yield measured(TOPIC, "recurra layers", _best(COMMAND.format(argument="layers")), "seconds", "<= 1.0")
    for name in ("min-gru", "lstm", "mamba", "slstm"):
        with tempfile.TemporaryDirectory() as folder:
            code = FIRST_CALL.format(name=name)
            cold = _run(code, RECURRA_CACHE_DIR=folder)
            warm = min(_run(code, RECURRA_CACHE_DIR=folder) for _ in range(3))
        yield measured(TOPIC, f"first call of {name}, forward and backward, cold cache", cold, "seconds", "<= 6")
        yield measured(TOPIC, f"first call of {name}, forward and backward, warm cache", warm, "seconds", "<= 0.4")
    time = 262144 // (16 if small else 1)
    used = _run(MEMORY.format(time=time))
    note = "peak over the bytes of two inputs, the output and their gradients"
    yield measured(
        TOPIC, f"training memory, minGRU core, T = {time}, D = 256, B = 1", used, "of the floor", "<= 1.15", note
    )
    yield from _default_job()


def _run(code: str, **environment: str) -> float:
    result = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | environment, check=True, capture_output=True, text=True
    )
    return float(result.stdout)


def _best(code: str) -> float:
    return min(_run(code) for _ in range(3))


def _default_job() -> Iterator[Row]:
    path = Path("runs/default/result.json")
    if path.exists():
        result = json.loads(path.read_text())
        yield measured(TOPIC, "default job, held-out text", result["bits_per_byte"], "bits per byte", f"<= {BITS}")
        yield measured(TOPIC, "default job, training", result["training_seconds"], "seconds", f"<= {SECONDS}")
