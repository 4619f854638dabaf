"""Recurrences of the literature as a user would write them, each with this library and without it.

Held to their loops by hand, in value and gradient, by tests/test_examples.py. Both run on one thread, and what is timed
is the processor's time: a loop of many small operations suffers more from other users of the machine than a kernel.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from benchmarks.layers import Leaky, train
from benchmarks.measure import Row, Work, compare, measured
from benchmarks.own import examples, gated, in_jax, memories, others
from benchmarks.own.written import ByHand, Written
from recurra import Lane

TOPICS = BY_HAND, JAX, STREAMED, FIRST = (
    "Against the loop by hand",
    "Against jax.lax.scan and jax.grad",
    "One time step at a time",
    "First call, nothing compiled before",
)
INTRODUCTION = """# Recurrences of one's own

Made by `python -m benchmarks.own`; do not edit. 37 recurrences of the literature, each written as a `Recurrence` and
as the loop over batches that one would write in PyTorch without this library (`benchmarks/own/`, `examples/`); a test
holds the two to each other, in value and in every gradient. A training step at (B, T, D) = (8, 256, 64): forward, and
the gradients of x and all weights, some in a row. Ours and the peer ran in turn in one process, float32, on
{threads} thread of {machine}, torch {torch}, on {day}. Times are medians, in milliseconds of the processor's time,
which counts no other user of the machine but for what they do to caches and memory; first calls are by the clock.

Ours take `recurra.Linear` for their linear maps, the loops by hand `torch.nn.Linear`; the examples take PyTorch's on
both sides. Most of the time of the compiled ones goes to these maps of all time steps at once, which both sides need.
"""
RECURRENCES: list[type[Written]] = [kind for part in (gated, others, memories, examples) for kind in part.RECURRENCES]
TOGETHER = 5
"""Training steps timed in a row."""
NEEDED = {"ConvLSTM": 1.5}
"""Times as fast as the loop by hand, where that is not 5: most of its time is convolutions, on both sides."""


def rows(small: bool) -> Iterator[Row]:
    """All rows of this file."""
    x, threads = torch.randn(2 if small else 8, 16 if small else 256, 64), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield from _by_hand(x)
        yield from _against_jax(x)
        yield from _one_time_step()
    finally:
        torch.set_num_threads(threads)
    yield from _first_calls(small)


def in_a_row(work: Work) -> Work:
    """`TOGETHER` runs one behind the other, as training makes them: what ran before has no part in the time."""

    def works() -> None:
        for _ in range(TOGETHER):
            work()

    return works


def each(row: Row) -> Row:
    """A row of works in a row, with the milliseconds of one."""
    peer = None if row.peer_ms is None else row.peer_ms / TOGETHER
    return replace(row, ours_ms=None if row.ours_ms is None else row.ours_ms / TOGETHER, peer_ms=peer)


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
        hand = train(ByHand(layer), given)
        row = compare(
            BY_HAND,
            kind.title,
            in_a_row(train(layer, given)),
            "loop by hand",
            in_a_row(hand),
            f">= {needed}",
            7,
            note=why or "",
            clock=time.process_time,
        )
        ratios.append(row.ratio or math.nan)
        yield each(row)
    mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
    yield measured(BY_HAND, f"all {len(ratios)}, geometric mean", mean, "times as fast as by hand", ">= 15")


def _against_jax(x: Tensor) -> Iterator[Row]:
    x, ratios = x.detach().requires_grad_(), []
    for layer in (*(kind(x.shape[2]) for kind in RECURRENCES), Leaky(x.shape[2])):
        title = getattr(layer, "title", "the README's own")
        if title not in in_jax.STEPS:
            continue
        theirs = in_jax.gradients(layer, x)
        if theirs is not None:
            # Of the first steps: what is rounded otherwise grows with time.
            torch.testing.assert_close(theirs[1]()[:, :32], layer(x)[0].detach()[:, :32], rtol=1e-3, atol=1e-4)
        row = compare(
            JAX,
            title,
            in_a_row(train(layer, x)),
            "jax.lax.scan and jax.grad",
            theirs and in_a_row(theirs[0]),
            ">= 1",
            15,
            clock=time.process_time,
        )
        ratios += [row.ratio] if row.ratio else []
        yield each(row)
    if ratios:
        mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
        yield measured(JAX, f"these {len(ratios)}, geometric mean", mean, "times as fast as JAX", ">= 3")


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
            STREAMED,
            f"{STEPS} time steps one by one, a GRU, batch 1",
            ours,
            "nn.GRUCell",
            eager,
            ">= 1",
            15,
            clock=time.process_time,
        )
    yield row
    yield measured(STREAMED, "one of these time steps", 1e3 * (row.ours_ms or 0) / STEPS, "microseconds", "<= 40")


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
        yield measured(FIRST, title, seconds, "seconds", "<= 2")
