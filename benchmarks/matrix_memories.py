"""Matrix memories alone, without projections: Gated DeltaNet's delta rule on both engines against transformers' own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch

import recurra
from benchmarks import peers
from benchmarks.measure import Row, compare, holds
from recurra.engines import compiled
from recurra.engines.chunkwise import engine as chunkwise
from recurra.problem import Problem, StepInput

TOPIC = "Matrix memories"
ENGINES = {"compiled": compiled, "chunkwise": chunkwise}


def gated_delta_rule(batch: int, time: int, heads: int, size: int) -> Problem:
    """The problem of Gated DeltaNet's step on random q, k, v, log_decay and beta; keys and values are [size]."""
    layer = recurra.layer("gated-delta-net", 8, heads=heads, key_size=size, value_size=size)
    q, k, v = (torch.randn(batch, time, heads, size) for _ in range(3))
    q, k = (torch.nn.functional.normalize(t, dim=-1) for t in (q, k))
    log_decay, beta = -torch.rand(batch, time, heads), torch.rand(batch, time, heads)
    inputs = {"q": q, "k": k, "v": v, "log_decay": log_decay, "beta": beta}
    inputs = {name: StepInput(t.requires_grad_()) for name, t in inputs.items()}
    return replace(layer.problem(torch.zeros(batch, time, 8)), inputs=inputs)


def mlstm(batch: int, time: int, heads: int, size: int) -> Problem:
    """The problem of mLSTM's step on random q, k, v, i and f, without the skip past the memory."""
    layer = recurra.layer("mlstm", heads * size // 2, heads=heads)
    q, k, v = (torch.randn(batch, time, heads, size, requires_grad=True) for _ in range(3))
    i, f = (torch.randn(batch, time, heads, requires_grad=True) for _ in range(2))
    inputs = {"q": q, "k": k, "v": v, "i": i, "f": f, "u": torch.zeros_like(v)}
    inputs = {name: StepInput(t) for name, t in inputs.items()}
    return replace(layer.problem(torch.zeros(batch, time, layer.width)), inputs=inputs)


def rows(small: bool) -> Iterator[Row]:
    """All rows of this file."""
    yield from _delta_rule(small)
    yield from _mlstm(small)
    yield from _chunks_against_the_loop(small)


def _chunks_against_the_loop(small: bool) -> Iterator[Row]:
    """Products are what a GPU wants; on a CPU they should not be far from the compiled loop."""
    batch, time, heads, size = 1, 512 if small else 4096, 4, 128
    for name in ("mlstm", "rwkv7", "delta-product"):
        layer = recurra.layer(name, heads * size // (2 if name == "mlstm" else 1), heads=heads)
        with torch.no_grad():
            problem = layer.problem(torch.randn(batch, time, layer.width))
        inputs = {n: replace(entry, tensor=entry.tensor.requires_grad_()) for n, entry in problem.inputs.items()}
        problem = replace(problem, inputs=inputs)

        def work(engine: Any, problem: Problem = problem) -> None:
            torch.autograd.grad(engine.run(problem).y.sum(), _tensors(problem), allow_unused=True)

        label = f"{name} core B={batch} T={time} H={heads} d={size}, training step, chunkwise"
        yield compare(TOPIC, label, partial(work, chunkwise), "the compiled loop", partial(work, compiled), ">= 0.8", 5)


def _mlstm(small: bool) -> Iterator[Row]:
    theirs, gains = peers.xlstm_mlstm(), []
    for batch, time, target in ((16, 512, ">= 6"), (1, 512, ">= 0"), (1, 4096, ">= 0")):
        problem = mlstm(batch, time // 8 if small else time, 4, 32)
        given = [entry.tensor for name, entry in problem.inputs.items() if name != "u"]
        weight = torch.randn(problem.batch, problem.time, 4, 32)

        def ours(problem: Problem = problem, given: list = given, weight: torch.Tensor = weight) -> None:
            torch.autograd.grad(compiled.run(problem).y[..., 0, :], given, weight)

        def parallel(given: list = given, weight: torch.Tensor = weight) -> None:
            # Heads before time: as transposed views, which cost nothing.
            turned = [t.transpose(1, 2) if t.dim() == 4 else t.transpose(1, 2)[..., None] for t in given]
            torch.autograd.grad(theirs(*turned).transpose(1, 2), given, weight)

        name = f"mLSTM core B={batch} T={problem.time} H=4 d=32, training step"
        peer = None if theirs is None else parallel
        row = compare(TOPIC, name, ours, "xlstm's parallel form", peer, target, 5, settle=time > 512)
        if batch == 16:
            yield row
        elif row.ratio:
            gains.append(row.ratio)
            yield replace(row, target="", met=None)
    if len(gains) == 2:
        growth = gains[1] / gains[0]
        name = "mLSTM core B=1: the ratio at T = 4096 over that at T = 512"
        yield Row(TOPIC, name, None, "xlstm's parallel form", None, ">= 6", growth, holds(growth, ">= 6"))


def _delta_rule(small: bool) -> Iterator[Row]:
    theirs = peers.transformers_gated_delta_rule()
    for shape, targets in (((1, 4096, 4, 64), (4, 6)), ((2, 1024, 4, 128), (2, 3))):
        batch, time, heads, size = shape
        time = time // 8 if small else time
        problem = gated_delta_rule(batch, time, heads, size)
        for kind, work, target in zip(("forward", "training step"), (_forward, _train), targets, strict=True):
            for name, engine in ENGINES.items():
                yield compare(
                    TOPIC,
                    f"Gated DeltaNet core B={batch} T={time} H={heads} d={size}, {kind}, {name}",
                    work(lambda problem, engine=engine: engine.run(problem).y, problem),
                    "transformers torch_chunk_gated_delta_rule",
                    None if theirs is None else work(lambda problem: theirs(*_tensors(problem))[0], problem),
                    f">= {target}",
                    5,
                )


def _tensors(problem: Problem) -> list[torch.Tensor]:
    return [entry.tensor for entry in problem.inputs.values()]


def _forward(run: Callable[[Problem], torch.Tensor], problem: Problem) -> Callable[[], None]:
    def work() -> None:
        with torch.no_grad():
            run(problem)

    return work


def _train(run: Callable[[Problem], torch.Tensor], problem: Problem) -> Callable[[], None]:
    weight = torch.randn(problem.batch, problem.time, *problem.start["S"].shape[:2])

    def work() -> None:
        torch.autograd.grad(run(problem), _tensors(problem), weight)

    return work
