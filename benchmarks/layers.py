"""Whole layers: a training step (forward, and gradients of input and parameters) against other implementations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

import recurra
from benchmarks import peers
from benchmarks.measure import Row, compare
from recurra import Lane, Recurrence

TOPIC = "Layers, training step"


class Leaky(Recurrence):
    """The README's own recurrence."""

    lane = Lane.CHANNEL

    def __init__(self, width: int):
        super().__init__(width)
        self.to_gate = torch.nn.Linear(width, width)

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


def rows(small: bool) -> Iterator[Row]:
    """All rows of this file."""
    yield from _gated(small)
    batch, time, width = (2, 512, 128)
    x = torch.randn(batch, time, width, requires_grad=True)
    ours, shape = train(recurra.layer("mamba", width), x), f"({batch}, {time}, {width})"
    if not small:
        mixer = train(peers.transformers_mamba(width), x)
        yield compare(TOPIC, f"Mamba {shape}", ours, "transformers MambaMixer", mixer, ">= 150", 3)
    yield compare(TOPIC, f"Mamba {shape}", ours, "mambapy", train(peers.mambapy(width), x), ">= 8", 7)

    batch, time, width = (16, 64 if small else 512, 128)
    x = torch.randn(batch, time, width, requires_grad=True)
    ours, theirs = train(recurra.layer("slstm", width, heads=4), x), train(peers.xlstm_slstm(width, 4), x)
    yield compare(TOPIC, f"sLSTM ({batch}, {time}, {width}), 4 heads", ours, "xlstm vanilla", theirs, ">= 60", 3)

    batch, time, width = (8, 256 if small else 4096, 512)
    x = torch.randn(batch, time, width, requires_grad=True)
    ours, theirs = train(recurra.layer("min-gru", width), x), train(peers.mingru(width), x)
    yield compare(TOPIC, f"minGRU ({batch}, {time}, {width})", ours, "minGRU-pytorch", theirs, ">= 4", 3)
    yield from _own(small)


def _gated(small: bool) -> Iterator[Row]:
    kinds = {"lstm": (torch.nn.LSTM, (1, 1, None)), "gru": (torch.nn.GRU, (2, 8, None))}
    for i, (batch, time, width, heads) in enumerate(((16, 512, 128, 1), (1, 2048, 128, 1), (8, 1024, 512, 8))):
        time = time // 8 if small else time
        x = torch.randn(batch, time, width, requires_grad=True)
        for name, (kind, targets) in kinds.items():
            layer = recurra.layer(name, width, heads=heads)
            label = f"{name.upper()} ({batch}, {time}, {width}){f' in {heads} heads' if heads > 1 else ''}"
            ours, target = train(layer, x), targets[i]
            if target:
                theirs = train(kind(width, width, batch_first=True), x)
                yield compare(TOPIC, label, ours, f"torch.nn.{name.upper()}", theirs, f">= {target}", 9)
            yield compare(TOPIC, label, ours, "the reference loop", train(layer, x, engine="loop"), ">= 3", 3)


def _own(small: bool) -> Iterator[Row]:
    batch, time, width = (8, 64 if small else 512, 256)
    x = torch.randn(batch, time, width, requires_grad=True)
    layer, label = Leaky(width), f"the README's own recurrence ({batch}, {time}, {width})"
    ours = train(layer, x)
    yield compare(TOPIC, label, ours, "the reference loop", train(layer, x, engine="loop"), ">= 15", 3)
    yield compare(TOPIC, label, ours, "jax.lax.scan and jax.grad", peers.jax_leaky(width, x), ">= 3", 9)
