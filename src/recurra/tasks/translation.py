"""From one sequence to another: an encoder, a decoder, and a look from one to the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from recurra.models.backbone import Backbone
from recurra.nn.linear import Linear
from recurra.pointwise import Dropout
from recurra.state import State


@dataclass(frozen=True)
class Memory:
    """What an encoder has made of sources."""

    y: Tensor
    """[B, S, D]."""
    there: Tensor
    """[B, S] bool: before the padding."""
    gist: Tensor
    """[B, D]: of the whole source."""

    def rows(self, which: Tensor) -> Memory:
        """Of some of the sources."""
        return Memory(self.y[which], self.there[which], self.gist[which])


class Translation(nn.Module):
    """p(y_1 ... y_T, end | x): an encoder of x, and a decoder that reads what it has said and looks at the source.

    h = encoder(x),  g = W_g mean(h),  s_t = decoder(embedding(y_{t-1}) + g),
    a_t = softmax(s_t W_a h),  o_t = tanh(W_o [s_t, sum a_t h]),  p(y_t) = softmax(W o_t).

    The look is behind the recurrence, so that training reads whole sequences on any engine.

    Source: Effective Approaches to Attention-based Neural Machine Translation, Luong, Pham, Manning, 2015,
    arXiv:1508.04025, its global attention with the score "general". Departures: no input feeding; what the decoder
    starts from is added to its inputs, which any recurrence can read, rather than being its state.

    Args:
        sources, targets: tokens of each side; one more of the source is unknown, and of the target the end.
    """

    def __init__(self, sources: int, targets: int, encoder: Backbone, decoder: Backbone, dropout: float = 0.0):
        super().__init__()
        width = encoder.width
        self.end = targets
        self.read, self.said = nn.Embedding(sources + 1, width), nn.Embedding(targets + 2, width)
        self.encoder, self.decoder = encoder, decoder
        self.to_gist, self.to_score = Linear(width, width), Linear(width, width, bias=False)
        self.to_output, self.to_token = Linear(2 * width, width), Linear(width, targets + 1)
        self.dropout = Dropout(dropout)

    @property
    def begin(self) -> int:
        """The token before the first."""
        return self.end + 1

    def encode(self, source: Tensor, lengths: Tensor) -> Memory:
        """What is made of sources [B, S] int64, `lengths` [B] of them."""
        there = torch.arange(source.shape[1]) < lengths[:, None]
        y, _ = self.encoder(self.dropout(self.read(source.clamp(min=0))), lengths=lengths)
        mean = y.sum(1) / lengths.clamp(min=1)[:, None].to(y.dtype)
        return Memory(y, there, self.to_gist(mean))

    def decode(
        self, said: Tensor, memory: Memory, state: Mapping[str, Tensor] | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, State, Tensor]:
        """From tokens said [B, T] to raw numbers of the next [B, T, targets + 1], the new state, and where each step
        looked [B, T, S]."""
        x = self.dropout(self.said(said)) + memory.gist[:, None]
        s, after = self.decoder(x, state, lengths=lengths)
        scores = s @ self.to_score(memory.y).transpose(1, 2)
        looked = torch.where(memory.there[:, None], scores, -torch.inf).softmax(-1)
        output = self.to_output(torch.cat([s, looked @ memory.y], -1)).tanh()
        return self.to_token(self.dropout(output)), after, looked

    def forward(self, source: Tensor, lengths: Tensor, said: Tensor, said_lengths: Tensor | None = None) -> Tensor:
        """Raw numbers [B, T, targets + 1] of the token after each of `said` [B, T], which begin with `begin`."""
        return self.decode(said, self.encode(source, lengths), None, said_lengths)[0]
