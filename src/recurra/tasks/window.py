"""A look at a text that moves on, and never back."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from recurra import options
from recurra.nn.linear import Linear
from recurra.state import State


class Window(nn.Module):
    """w_t = sum_u phi(t, u) c_u, phi(t, u) = sum_k a_k exp(-b_k (p_k - u)^2), p_k = p_k before + pace exp(d_k):
    a, b = exp(W s_t), d = W s_t. What is at u = 0, 1, ... of a text is seen when a position p comes near.

    Positions are a running sum of what s_t says, so that whole sequences are read at once.

    Source: Generating Sequences With Recurrent Neural Networks, Graves, 2013, arXiv:1308.0850, equations 46 to 51.
    Departure: w is not fed back into what s is made of.

    Args:
        width: of s.
        positions: K.
        pace: how much of a letter a step moves on before anything is learned: one over the steps of a letter.
    """

    def __init__(self, width: int, positions: int = 5, pace: float = 0.1):
        super().__init__()
        self.positions, self.pace = options.count("positions", positions), options.number("pace", pace, 1e-9)
        self.to_window = Linear(width, 3 * positions)

    def initial_state(self, batch: int) -> State:
        """All positions a step before the first of the text."""
        return State(position=self.to_window.weight.new_full((batch, self.positions), -self.pace))

    def forward(
        self, s: Tensor, text: Tensor, lengths: Tensor, state: Mapping[str, Tensor] | None = None
    ) -> tuple[Tensor, State, Tensor]:
        """w [B, T, E], the state after, and phi [B, T, U], of s [B, T, D] and a text [B, U, E], `lengths` [B] of it."""
        start = (self.initial_state(len(s)) if state is None else state)["position"]
        height, narrow, moves = self.to_window(s).exp().chunk(3, -1)
        position = start[:, None] + (self.pace * moves).cumsum(1)
        place = torch.arange(text.shape[1], dtype=s.dtype)
        off = position[..., None] - place
        phi = (height[..., None] * torch.exp(-narrow[..., None] * off.square())).sum(2)
        phi = torch.where((place < lengths[:, None])[:, None], phi, 0)
        last = position[:, -1] if s.shape[1] else start
        return phi @ text, State(position=last), phi
