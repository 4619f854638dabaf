"""Whole layers: a training step (forward, and gradients of input and parameters) against other implementations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

import recurra
from benchmarks import peers
from benchmarks.floors import Product, floor
from benchmarks.measure import Row, Work, at_best, compare
from recurra import Lane, Recurrence

TOPIC = "Layers, training step"


class Leaky(Recurrence):
    """The README's own recurrence."""

    lane = Lane.CHANNEL

    def __init__(self, width: int):
        super().__init__(width)
        self.to_gate = recurra.Linear(width, width)

    def start(self):
        return {"h": torch.zeros(self.width)}

    def inputs(self, x):
        return {"x": x, "gate": self.to_gate(x)}

    def step(self, h, x, gate):
        h = h + torch.sigmoid(gate) * (torch.tanh(x + h) - h)
        return h, h


def train(layer: Any, x: torch.Tensor, **options: Any) -> Callable[[], None] | None:
    """One training step of a layer, or None if there is no layer."""
    if layer is None:
        return None
    weights = [p for p in layer.parameters() if p.requires_grad]

    def step() -> None:
        y = layer(x, **options)
        y = y[0] if isinstance(y, tuple) else y
        torch.autograd.grad(y.sum(), [x, *weights], allow_unused=True)

    return step


def best(row: Row, ours: Work, theirs: torch.nn.Module | None, x: torch.Tensor) -> Iterator[Row]:
    """Rows with the peer under its best settings, if it is there."""
    if theirs is not None:
        tuned = peers.compiled(theirs, lambda module: train(module, x)())
        yield from at_best(row, ours, train(theirs, x), train(tuned, x))


def rows(small: bool) -> Iterator[Row]:
    """All rows of this file."""
    yield from _gated(small)
    batch, time, width = (2, 512, 128)
    x = torch.randn(batch, time, width, requires_grad=True)
    ours, shape = train(recurra.layer("mamba", width), x), f"({batch}, {time}, {width})"
    inner, states, rank, steps = 2 * width, 16, width // 16, batch * time
    products = [Product(steps, width, inner)] * 2 + [Product(steps, inner, rank + 2 * states)]
    products += [Product(steps, rank, inner), Product(steps, inner, width)]
    exponentials = steps * inner * states
    if not small:
        row = compare(
            TOPIC,
            f"Mamba {shape}",
            ours,
            "transformers MambaMixer",
            train(peers.transformers_mamba(width), x),
            ">= 150",
            3,
        )
        yield from (row, floor(row, ours, products, exponentials))
    theirs = peers.mambapy(width)
    row = compare(TOPIC, f"Mamba {shape}", ours, "mambapy", train(theirs, x), ">= 8", 7)
    yield from (row, *best(row, ours, theirs, x), floor(row, ours, products, exponentials))

    batch, time, width = (16, 64 if small else 512, 128)
    x = torch.randn(batch, time, width, requires_grad=True)
    ours, theirs = train(recurra.layer("slstm", width, heads=4), x), train(peers.xlstm_slstm(width, 4), x)
    row = compare(TOPIC, f"sLSTM ({batch}, {time}, {width}), 4 heads", ours, "xlstm vanilla", theirs, ">= 40", 3)
    # Of inputs and of states; two exponentials, and a softplus, a tanh and a sigmoid that each hold at least one.
    products = [Product(batch * time, width // 4, width, 4)] * 2
    yield from (row, floor(row, ours, products, 5 * batch * time * width))

    batch, time, width = (8, 256 if small else 4096, 512)
    x = torch.randn(batch, time, width, requires_grad=True)
    ours, theirs = train(recurra.layer("min-gru", width), x), peers.mingru(width)
    row = compare(TOPIC, f"minGRU ({batch}, {time}, {width})", ours, "minGRU-pytorch", train(theirs, x), ">= 5", 3)
    yield from (
        row,
        *best(row, ours, theirs, x),
        floor(row, ours, [Product(batch * time, width, width)] * 2, 2 * x.numel()),
    )
    yield from _own(small)


def _gated(small: bool) -> Iterator[Row]:
    kinds = {"lstm": (torch.nn.LSTM, (1.15, 1.8, 1.1, 0.95, None)), "gru": (torch.nn.GRU, (4.5, 8, 2, 8, None))}
    shapes = ((16, 512, 128, 1), (1, 2048, 128, 1), (32, 256, 256, 1), (1, 2048, 512, 1), (8, 1024, 512, 8))
    for i, (batch, time, width, heads) in enumerate(shapes):
        time = time // 8 if small else time
        x = torch.randn(batch, time, width, requires_grad=True)
        for name, (kind, targets) in kinds.items():
            layer = recurra.layer(name, width, heads=heads)
            label = f"{name.upper()} ({batch}, {time}, {width}){f' in {heads} heads' if heads > 1 else ''}"
            ours, target = train(layer, x), targets[i]
            if target:
                theirs = kind(width, width, batch_first=True)
                row = compare(TOPIC, label, ours, f"torch.nn.{name.upper()}", train(theirs, x), f">= {target}", 9)
                more = best(row, ours, theirs, x) if i == 0 else ()
                gates = {"lstm": 4, "gru": 3}[name] * width
                yield from (
                    row,
                    *more,
                    floor(row, ours, [Product(batch * time, width, gates)] * 2, gates // width * x.numel()),
                )
            yield compare(TOPIC, label, ours, "the reference loop", train(layer, x, engine="loop"), ">= 3", 3)


def _own(small: bool) -> Iterator[Row]:
    batch, time, width = (8, 64 if small else 512, 256)
    x = torch.randn(batch, time, width, requires_grad=True)
    layer, label = Leaky(width), f"the README's own recurrence ({batch}, {time}, {width})"
    ours = train(layer, x)
    yield compare(TOPIC, label, ours, "the reference loop", train(layer, x, engine="loop"), ">= 15", 3)
    row = compare(TOPIC, label, ours, "jax.lax.scan and jax.grad", peers.jax_leaky(width, x), ">= 1.7", 9)
    yield from (row, floor(row, ours, [Product(batch * time, width, width)], 2 * x.numel()))
