"""Recurrences of the literature that this library does not have, each written with it and without it.

Held to their loops by hand, in value and gradient, by tests/test_own.py.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from benchmarks.layers import Leaky, train
from benchmarks.measure import Row, compare, measured
from benchmarks.own import examples, gated, in_jax, memories, others
from benchmarks.own.written import Written
from recurra import Lane

TOPIC = "Recurrences of one's own"
RECURRENCES: list[type[Written]] = [kind for part in (gated, others, memories, examples) for kind in part.RECURRENCES]
NEEDED = {"ConvLSTM": 1.5}
"""Times as fast as the loop by hand, where that is not 5: most of its time is convolutions, on both sides."""


def rows(small: bool) -> Iterator[Row]:
    """All rows of this file."""
    x = torch.randn(2 if small else 8, 16 if small else 256, 64)
    yield from _by_hand(x)
    yield from _against_jax(x)
    yield from _one_time_step()
    yield from _first_calls(small)


def example_of(kind: type[Written], x: Tensor) -> Tensor:
    """x as a recurrence expects it: with gaps for one that fills them; gradients are asked for."""
    if kind is examples.GRUD:
        x = torch.where(torch.rand_like(x) < 0.3, torch.nan, x)
    return x.detach().requires_grad_()


def _by_hand(x: Tensor) -> Iterator[Row]:
    ratios = []
    for kind in RECURRENCES:
        layer, given = kind(x.shape[2]), example_of(kind, x)
        why = layer.refusals(given)["compiled"]
        # What is not compiled is run as it was written, one operation after the other.
        needed = 1.0 if why else NEEDED.get(kind.title, 5.0)
        hand = train(_Hand(layer), given)
        row = compare(
            TOPIC, kind.title, train(layer, given), "loop by hand", hand, f">= {needed}", 7, note=why or "", best=True
        )
        ratios.append(row.ratio or math.nan)
        yield row
    mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
    yield measured(TOPIC, f"all {len(ratios)}, geometric mean", mean, "times as fast as by hand", ">= 15")


class _Hand(nn.Module):
    """The loop by hand as a module, on the same weights."""

    def __init__(self, layer: Written):
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer.by_hand(x)


def _against_jax(x: Tensor) -> Iterator[Row]:
    x, ratios = x.detach().requires_grad_(), []
    for layer in (*(kind(x.shape[2]) for kind in RECURRENCES), Leaky(x.shape[2])):
        title = getattr(layer, "title", "the README's own")
        theirs = in_jax.gradients(layer, x)
        if title not in in_jax.STEPS:
            continue
        if theirs is not None:
            torch.testing.assert_close(theirs[1](), layer(x)[0].detach(), rtol=1e-3, atol=1e-4)
        row = compare(
            TOPIC, title, train(layer, x), "jax.lax.scan and jax.grad", theirs and theirs[0], ">= 1", 15, best=True
        )
        ratios += [row.ratio] if row.ratio else []
        yield row
    if ratios:
        mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
        yield measured(TOPIC, f"these {len(ratios)}, geometric mean", mean, "times as fast as JAX", ">= 3")


class OwnGRU(Written):
    """A GRU as somebody writes it."""

    title, lane = "GRU", Lane.LAYER

    def __init__(self, width: int):
        super().__init__(width)
        self.cell = nn.GRUCell(width, width)

    def start(self):
        return {"h": torch.zeros(self.width)}

    def inputs(self, x):
        return {"x": x}

    def step(self, h, x):
        h = self.cell(x, h)
        return h, h


def _one_time_step() -> Iterator[Row]:
    """`advance` of a class of one's own at batch 1, against its cell in plain PyTorch."""
    layer, x = OwnGRU(64).eval(), torch.randn(1, 64)

    def ours() -> None:
        state = layer.initial_state(1)
        for _ in range(STEPS):
            state = layer.advance(x, state)[1]

    def eager() -> None:
        h = torch.zeros(1, 64)
        for _ in range(STEPS):
            h = layer.cell(x, h)

    with torch.no_grad():
        row = compare(
            TOPIC, f"{STEPS} time steps one by one, a GRU, batch 1", ours, "nn.GRUCell", eager, ">= 1", 15, best=True
        )
    yield row
    yield measured(TOPIC, "one of these time steps", 1e3 * (row.ours_ms or 0) / STEPS, "microseconds", "<= 40")


STEPS = 200
"""Time steps that are taken one by one."""
FIRST_CALL = """
import json, time, torch
from benchmarks.own import RECURRENCES, example_of
x = torch.randn(8, 16, 64)
(torch.nn.functional.linear(x.requires_grad_(), torch.randn(8, 64)).sum()).backward()
seconds = {}
for kind in RECURRENCES:
    layer, given = kind(64), example_of(kind, x)
    began = time.perf_counter()
    layer(given)[0].sum().backward()
    seconds[kind.title] = time.perf_counter() - began
print(json.dumps(seconds))
"""


def _first_calls(small: bool) -> Iterator[Row]:
    """Seconds of the first call, forward and backward, of each, with nothing compiled before."""
    with tempfile.TemporaryDirectory() as folder:
        code = FIRST_CALL.replace("in RECURRENCES", "in RECURRENCES[:3]") if small else FIRST_CALL
        environment = os.environ | {"RECURRA_CACHE_DIR": folder}
        run = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
    for title, seconds in json.loads(run.stdout.splitlines()[-1]).items():
        yield measured(TOPIC, f"first call of {title}, cold cache", seconds, "seconds", "<= 2")
