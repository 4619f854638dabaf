"""Strokes that write a text: points drawn one after another, by a model that reads its own."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from recurra import options
from recurra.errors import InputError
from recurra.models.backbone import Backbone
from recurra.nn.linear import Linear
from recurra.state import State
from recurra.tasks.heads.mixture_density import MixtureDensity
from recurra.tasks.window import Window


class Script(nn.Module):
    """p(point_t | points before, text): s = below(embed(point_{t-1})), w_t a `Window` of s on the text,
    raw = W above(s + V w).

    Points are [..., 3]: how far the pen moves, right and up, and 1 if it is lifted behind that.

    Source: as `Window`, its section 5. Departure: the two backbones are blocks of any recurrences.

    Args:
        symbols: different letters of texts.
        below, above: backbones of one width.
        mixtures: bells of the head.
        pace: as of `Window`.
    """

    def __init__(self, symbols: int, below: Backbone, above: Backbone, mixtures: int = 10, pace: float = 0.1):
        super().__init__()
        if below.width != above.width:
            raise InputError(f"above is {above.width} wide; expected {below.width}, as below")
        width = below.width
        self.symbols = options.count("symbols", symbols)
        self.head, self.window = MixtureDensity(mixtures), Window(width, pace=pace)
        self.read, self.letter = Linear(self.head.embedded, width), nn.Embedding(symbols, width)
        self.below, self.above = below, above
        self.to_raw = Linear(width, self.head.size)

    def forward(
        self, points: Tensor, text: Tensor, lengths: Tensor, state: Mapping[str, Tensor] | None = None
    ) -> tuple[Tensor, State, Tensor]:
        """Raw numbers of the point after each of `points` [B, T, 3], the new state, and where the window was [B, T, U];
        texts are [B, U] int64, `lengths` [B] of them."""
        state = self.initial_state(len(points)) if state is None else State(state)
        s, below = self.below(self.read(self.head.embed(points)), state.under("below"))
        w, window, phi = self.window(s, self.letter(text.clamp(min=0)), lengths, state.under("window"))
        y, above = self.above(s + w, state.under("above"))
        after = below.prefixed("below") | window.prefixed("window") | above.prefixed("above")
        return self.to_raw(y), State(after), phi

    def initial_state(self, batch: int) -> State:
        """Before the first point."""
        below, above = self.below.initial_state(batch), self.above.initial_state(batch)
        window = self.window.initial_state(batch).prefixed("window")
        return State(below.prefixed("below") | window | above.prefixed("above"))

    def loss(self, points: Tensor, text: Tensor, lengths: Tensor) -> Tensor:
        """Of points [B, T, 3], NaN behind their end: the mean surprise of one, []."""
        before = torch.cat([torch.full_like(points[:, :1], torch.nan), points[:, :-1]], 1)
        return self.head.loss(self(before, text, lengths)[0], points)

    @torch.no_grad()
    def write(
        self, text: Tensor, lengths: Tensor, steps: int, bias: float = 0.0, generator: torch.Generator | None = None
    ) -> Tensor:
        """Points [B, steps, 3] of texts [B, U]; the larger the bias, the neater.

        Raises InputError if an argument is out of range.
        """
        options.number("bias", bias, 0)
        state, point = self.initial_state(len(text)), torch.full((len(text), 1, 3), torch.nan)
        found = []
        for _ in range(options.count("steps", steps)):
            raw, state, _ = self(point, text, lengths, state)
            point = self.head.sample(self.head.biased(raw, bias), 1, generator=generator)[0]
            found.append(point)
        return torch.cat(found, 1)
