"""Matrix memories alone, without projections: Gated DeltaNet's delta rule on both engines against transformers' own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch

import recurra
from benchmarks import peers
from benchmarks.measure import Row, compare
from recurra.engines import chunkwise, compiled
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


def rows(small: bool) -> Iterator[Row]:
    """All rows of this file."""
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
