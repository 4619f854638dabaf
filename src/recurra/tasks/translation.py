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
from recurra.tasks.transcription import Frames

TINY = 1e-20
"""No chance of a token is smaller where tokens are copied."""


@dataclass(frozen=True)
class Memory:
    """What an encoder has made of sources."""

    source: Tensor
    """[B, S] int64: the tokens."""
    y: Tensor
    """[B, S, D]."""
    there: Tensor
    """[B, S] bool: before the padding."""
    gist: Tensor
    """[B, D]: of the whole source."""

    def rows(self, which: Tensor) -> Memory:
        """Of some of the sources."""
        return Memory(self.source[which], self.y[which], self.there[which], self.gist[which])


class Translation(nn.Module):
    """p(y_1 ... y_T, end | x): an encoder of x, and a decoder that reads what it has said and looks at the source.

    h = encoder(x),  g = W_g mean(h),  s_t = decoder(embedding(y_{t-1}) + g),
    a_t = softmax(s_t W_a h),  o_t = tanh(W_o [s_t, sum a_t h]),  p(y_t) = softmax(W o_t).

    The look is behind the recurrence, so that training reads whole sequences on any engine. With `copies`, tokens are
    also taken from where it looks: p(y_t) = (1 - c_t m_t) softmax(W o_t)[y_t] + c_t sum of a_t over the places of y_t,
    c_t = sigmoid(w_c o_t), m_t the sum of a_t over places whose token the target has.

    Source: Effective Approaches to Attention-based Neural Machine Translation, Luong, Pham, Manning, 2015,
    arXiv:1508.04025, its global attention with the score "general". Departures: no input feeding; what the decoder
    starts from is added to its inputs, which any recurrence can read, rather than being its state. Copying as in
    "Get To The Point", See, Liu, Manning, 2017, arXiv:1704.04368.

    Args:
        sources, targets: tokens of each side; one more of the source is unknown, and of the target the end.
        copies: [sources + 1] int64, which token of the target each of the source is, -1 if it is none.
        frames: of a CTC head on the encoder, which learns beside the decoder; 0 is none.
    """

    copies: Tensor

    def __init__(
        self,
        sources: int,
        targets: int,
        encoder: Backbone,
        decoder: Backbone,
        dropout: float = 0.0,
        copies: Tensor | None = None,
        frames: int = 0,
    ):
        super().__init__()
        width = encoder.width
        self.end = targets
        self.read, self.said = nn.Embedding(sources + 1, width), nn.Embedding(targets + 2, width)
        self.encoder, self.decoder = encoder, decoder
        self.to_gist, self.to_score = Linear(width, width), Linear(width, width, bias=False)
        self.to_output, self.to_token = Linear(2 * width, width), Linear(width, targets + 1)
        self.to_copy = None if copies is None else Linear(width, 1)
        self.register_buffer("copies", copies, persistent=False)
        self.frames = Frames(width, targets, frames) if frames else None
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
        return Memory(source, y, there, self.to_gist(mean))

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
        raw = self.to_token(self.dropout(output))
        return (raw if self.to_copy is None else self._copied(raw, output, looked, memory)), after, looked

    def _copied(self, raw: Tensor, output: Tensor, looked: Tensor, memory: Memory) -> Tensor:
        """The logarithms of the chances of tokens that are said or copied; what the target does not have is not."""
        assert self.to_copy is not None
        token = torch.where(memory.there, self.copies[memory.source.clamp(min=0)], -1)
        copied = self.to_copy(output).sigmoid() * torch.where((token >= 0)[:, None], looked, 0)
        said = (1 - copied.sum(-1, keepdim=True)) * raw.softmax(-1)
        place = token.clamp(min=0)[:, None].expand_as(copied)
        return said.scatter_add(2, place, copied).clamp(min=TINY).log()

    def forward(self, source: Tensor, lengths: Tensor, said: Tensor, said_lengths: Tensor | None = None) -> Tensor:
        """Raw numbers [B, T, targets + 1] of the token after each of `said` [B, T], which begin with `begin`."""
        return self.decode(said, self.encode(source, lengths), None, said_lengths)[0]
