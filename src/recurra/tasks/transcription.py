"""From one sequence to another in the same order: an encoder, and a CTC head on what it gives."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from recurra.models.backbone import Backbone
from recurra.nn.linear import Linear
from recurra.pointwise import Dropout
from recurra.state import State
from recurra.tasks.heads.ctc import CTC
from recurra.tasks.heads.head import Around


class Frames(nn.Module):
    """What a CTC head reads of an encoder, [B, S, D] to [B, S count, targets + 1]: `count` steps for each."""

    def __init__(self, width: int, targets: int, count: int):
        super().__init__()
        self.head, self.count = CTC(targets), count
        self.to_raw = Linear(width, count * self.head.size)

    def forward(self, y: Tensor, lengths: Tensor) -> tuple[Tensor, Around]:
        """Raw numbers, and how many steps each row has."""
        return self.to_raw(y).unflatten(2, (self.count, -1)).flatten(1, 2), Around(lengths=lengths * self.count)

    def loss(self, y: Tensor, lengths: Tensor, target: Tensor) -> Tensor:
        """The mean surprise of a token of target [B, L], [], filled up with -1."""
        raw, around = self(y, lengths)
        return self.head.loss(raw, target, None, around)


class Transcription(nn.Module):
    """p(y_1 ... y_L | x) by a CTC head on what the encoder makes of each step of x.

    Args:
        sources, targets: tokens of each side; one more of the source is unknown.
        frames: steps of the head for each of the encoder.
    """

    def __init__(self, sources: int, targets: int, encoder: Backbone, frames: int = 1, dropout: float = 0.0):
        super().__init__()
        self.read, self.encoder = nn.Embedding(sources + 1, encoder.width), encoder
        self.frames, self.dropout = Frames(encoder.width, targets, frames), Dropout(dropout)

    def forward(
        self, source: Tensor, lengths: Tensor | None = None, state: Mapping[str, Tensor] | None = None
    ) -> tuple[Tensor, Around, State]:
        """Of sources [B, S] int64, `lengths` [B] of them: raw numbers of the head, where they end, the new state."""
        y, after = self.encoder(self.dropout(self.read(source.clamp(min=0))), state, lengths=lengths)
        whole = torch.full((len(source),), source.shape[1]) if lengths is None else lengths
        return *self.frames(self.dropout(y), whole), after

    def loss(self, source: Tensor, lengths: Tensor, target: Tensor) -> Tensor:
        """The mean surprise of a token of target [B, L], filled up with -1."""
        raw, around, _ = self(source, lengths)
        return self.frames.head.loss(raw, target, None, around)
