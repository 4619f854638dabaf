"""The recurrence alone, without projections: affine scan and selective scan against PyTorch's own elementwise work."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from benchmarks.measure import Row, compare
from recurra import Lane, Recurrence, constant, shared
from recurra.engines import compiled
from recurra.problem import Problem

TOPIC = "Kernels"


class Affine(Recurrence):
    """h = a h + b, given a and b side by side."""

    lane = Lane.CHANNEL

    def start(self):
        return {"h": torch.zeros(self.width // 2)}

    def inputs(self, x):
        a, b = x.chunk(2, -1)
        return {"a": a, "b": b}

    def step(self, h, a, b):
        h = a * h + b
        return h, h


class Selective(Recurrence):
    """Mamba's inner loop: h = exp(dt A) h + dt u B, y = C . h."""

    lane = Lane.CHANNEL

    def __init__(self, width: int, state_size: int = 16):
        super().__init__(width)
        self.state_size = state_size

    def start(self):
        return {"h": torch.zeros(self.width, self.state_size)}

    def inputs(self, x):
        batch, time, _ = x.shape
        shape = (batch, time, self.state_size)
        return {
            "u": x,
            "dt": torch.rand_like(x) * 0.1,
            "B": shared(torch.randn(shape)),
            "C": shared(torch.randn(shape)),
            "A": constant(-8 * torch.rand(self.width, self.state_size)),
        }

    def step(self, h, u, dt, B, C, A):
        h = torch.exp(dt * A) * h + dt * u * B
        return h, (C * h).sum()


def affine_problem(a: torch.Tensor, b: torch.Tensor) -> Problem:
    """The problem of h = a h + b for separate tensors."""
    from dataclasses import replace

    from recurra.problem import StepInput

    problem = Affine(2 * a.shape[2]).problem(torch.zeros(a.shape[0], 1, 2 * a.shape[2]))
    return replace(problem, inputs={"a": StepInput(a), "b": StepInput(b)}, time=a.shape[1])


def rows(small: bool) -> Iterator[Row]:
    """All rows of this file."""
    shapes = ((8, 4096, 512), (32, 1024, 256), (1, 65536, 256))
    for batch, time, width in shapes:
        time = time // 16 if small else time
        yield from _affine(batch, time, width)
    for batch, time, width in ((2, 512, 256), (4, 2048, 512)):
        yield _selective(batch, time // 4 if small else time, width)


def _affine(batch: int, time: int, width: int) -> Iterator[Row]:
    a, b, g = (torch.rand(batch, time, width) for _ in range(3))
    out = torch.empty_like(a)
    shape, wide = f"[{batch}, {time}, {width}]", batch == 1
    problem = affine_problem(a, b)

    def forward() -> None:
        with torch.no_grad():
            compiled.run(problem)

    def add() -> None:
        torch.add(a, b, out=out)

    yield compare(
        TOPIC,
        f"affine scan {shape}, forward",
        forward,
        "torch.add(a, b, out=c)",
        add,
        f"<= {1.6 if wide else 1.25}",
        15,
    )
    if wide:
        return
    needs = affine_problem(a.clone().requires_grad_(), b.clone().requires_grad_())
    leaves = [entry.tensor for entry in needs.inputs.values()]

    def both() -> None:
        torch.autograd.grad(compiled.run(needs).y, leaves, g)

    note = "8 streams: reads a, b, writes y; reads a, b, dy, writes da, db; an add moves 3"
    yield compare(
        TOPIC,
        f"affine scan {shape}, forward and backward",
        both,
        "adds of as many bytes",
        add,
        "<= 1.5",
        15,
        8 / 3,
        note,
    )


def _selective(batch: int, time: int, width: int) -> Row:
    problem = Selective(width).problem(torch.randn(batch, time, width))
    numbers = torch.randn(batch * time * width * 16)
    out = torch.empty_like(numbers)

    def forward() -> None:
        with torch.no_grad():
            compiled.run(problem)

    shape = f"[{batch}, {time}, {width}]"
    return compare(TOPIC, f"selective scan {shape}, N = 16, forward", forward, "torch.exp of as many numbers",
                   lambda: torch.exp(numbers, out=out), "<= 2.2", 9)  # fmt: skip
