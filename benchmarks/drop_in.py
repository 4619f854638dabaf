"""`recurra.nn` against `torch.nn`: a training step of the same module, from the same parameters."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from benchmarks.layers import train
from benchmarks.measure import Row, compare
from recurra import nn

TOPIC = "Drop-ins for torch.nn, training step"
SHAPES = ((16, 512, 128), (1, 2048, 128), (32, 256, 256), (1, 2048, 512), (8, 256, 64))
"""Batch, time steps, channels."""
HARDEST = ("LSTM", (1, 2048, 512))
"""One sequence alone, whose matrix no cache holds: both read it once per time step."""


def rows(small: bool) -> Iterator[Row]:
    """All rows of this file."""
    for batch, time, width in SHAPES:
        x = torch.randn(batch, time // 8 if small else time, width, requires_grad=True)
        for kind in ("LSTM", "GRU"):
            theirs = getattr(torch.nn, kind)(width, width, batch_first=True)
            ours = getattr(nn, kind)(width, width, batch_first=True)
            ours.load_state_dict(theirs.state_dict())
            target = ">= 0.95" if (kind, (batch, time, width)) == HARDEST else ">= 1"
            label = f"{kind} ({batch}, {time}, {width})"
            yield compare(TOPIC, label, train(ours, x), f"torch.nn.{kind}", train(theirs, x), target, 9)
