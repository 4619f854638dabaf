"""Engines parallel in time: against the compiled loop on one thread, against each other, and against the reference."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch

import recurra
from benchmarks.kernels import affine_problem
from benchmarks.measure import Row, compare, holds, in_turn, median
from benchmarks.state_tracking import trained
from recurra.engines import choose, compiled, convolution, loop, scan
from recurra.engines.newton import engine as newton
from recurra.problem import Problem

TOPIC = "Parallel in time"
MANY = 25
"""Repeats of what takes milliseconds, and of which other users of the machine disturb some."""


def rows(small: bool = False) -> Iterator[Row]:
    """Every comparison; `small` for a quick look that everything runs."""
    with torch.no_grad():
        yield from _one_long_sequence(small)
        yield from _constant_coefficients(small)
        yield from _newton(small)
        yield from _choices(small)
    yield from _newton_after_training(small)


def _one_long_sequence(small: bool) -> Iterator[Row]:
    time = 8192 if small else 262144
    layers = {"h = a h + b": affine_problem(torch.rand(1, time, 64), torch.randn(1, time, 64))}
    for name in ("min-gru", "rg-lru"):
        layers[name] = recurra.layer(name, 64).problem(torch.randn(1, time, 64))
    a, b = torch.rand(1, time, 64), torch.randn(1, time, 64)
    out = torch.empty_like(a)
    add = lambda: torch.add(a, b, out=out)  # noqa: E731
    label = f"torch.add of [1, {time}, 64], on all threads"
    yield replace(
        compare(TOPIC, label, add, "the same on one thread", _on_one_thread(add), ">= 1", MANY), target="", met=None
    )
    for name, problem in layers.items():
        label = f"{name}, [1, {time}, 64], scan"
        one = _on_one_thread(lambda problem=problem: compiled.run(problem))
        ours = lambda problem=problem: scan.run(problem)  # noqa: E731
        yield compare(TOPIC, label, ours, "compiled loop on one thread", one, ">= 1.6", MANY)
        yield compare(
            TOPIC, label, ours, "compiled loop", lambda problem=problem: compiled.run(problem), "<= 1.1", MANY
        )


def _constant_coefficients(small: bool) -> Iterator[Row]:
    time = 1024 if small else 16384
    for name in ("lru", "s4d"):
        problem = recurra.layer(name, 256).problem(torch.randn(1, time, 256))
        engines = {"scan": scan, "convolution": convolution}
        pairs = in_turn(lambda p=problem: scan.run(p), lambda p=problem: convolution.run(p), 3)
        times = dict(zip(engines, (median(list(column)) for column in zip(*pairs, strict=True)), strict=True))
        picked = choose.choose(problem)
        best = min(times, key=lambda engine: times[engine])
        chosen = times.get(picked) or _alone(lambda p=problem: compiled.run(p))
        yield _row(f"{name} [1, {time}, 256], auto ({picked})", chosen, f"the better of both ({best})", times[best],
                   "<= 1.2")  # fmt: skip


def _newton(small: bool) -> Iterator[Row]:
    time = 512 if small else 4096
    for name in ("diagonal-gru", "diagonal-lstm"):
        layer = recurra.layer(name, 256)
        problem = layer.problem(torch.randn(1, time, 256))
        solve = newton.run(problem).report["last_solve"]
        yield _count(f"{name} [1, {time}, 256] at its start, Newton iterations", solve.iterations, "<= 6")
        yield compare(
            TOPIC, f"{name} [1, {time}, 256], Newton", lambda p=problem: newton.run(p),
            "the reference loop", lambda p=problem: loop.run(p), ">= 8", repeats=3,
        )  # fmt: skip


def _newton_after_training(small: bool) -> Iterator[Row]:
    for name in ("diagonal-gru", "diagonal-lstm"):
        record = trained(name, steps=20 if small else 300)
        label = f"{name} after {record[-1]['step']} steps on parity (accuracy {record[-1]['accuracy']:.2f}), iterations"
        yield _count(label, record[-1]["iterations"], "<= 12")


def _choices(small: bool) -> Iterator[Row]:
    """The engine that "auto" picks against the fastest, over a grid of shapes."""
    worst, where = 0.0, ""
    wide = [(1, 1024, 8), (1, 65536, 8), (1, 8192, 64), (4, 4096, 128), (16, 1024, 32)]
    shapes = [(1, 2048, 16), (1, 16384, 8)] if small else wide
    for name in ("min-gru", "mamba", "s4d", "lru", "diagonal-gru", "gated-delta-net"):
        for shape in shapes:
            problem = recurra.layer(name, shape[2]).problem(torch.randn(shape))
            times = {}
            for engine, module in choose.ENGINES.items():
                if engine != "loop" and module.refuses(problem) is None and _affordable(problem, engine):
                    times[engine] = _alone(lambda m=module, p=problem: m.run(p))
            ratio = times[choose.choose(problem)] / min(times.values())
            if ratio > worst:
                worst, where = ratio, f"{name} {list(shape)}: {choose.choose(problem)}"
    name = f"auto against the best engine, worst of a grid ({where})"
    yield Row(TOPIC, name, None, "the best engine", None, "<= 1.5", worst, holds(worst, "<= 1.5"))


def _alone(work: Callable[[], object]) -> float:
    """Milliseconds of the fastest of some runs."""
    return min(ours for ours, _ in in_turn(work, lambda: None, 5))


def _affordable(problem: Problem, engine: str) -> bool:
    return choose.estimates(problem)[engine].seconds < 0.2  # type: ignore[union-attr]


def _on_one_thread(work: Callable[[], object]) -> Callable[[], object]:
    def run() -> object:
        with _one_thread():
            return work()

    return run


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _row(name: str, ours: float, peer: str, theirs: float, target: str) -> Row:
    ratio = ours / theirs
    return Row(TOPIC, name, ours, peer, theirs, target, ratio, holds(ratio, target))


def _count(name: str, value: float, target: str) -> Row:
    return Row(TOPIC, name, None, "", None, target, float(value), holds(value, target))
