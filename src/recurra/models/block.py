"""The residual block that models stack: a recurrence mixes over time, a gated MLP over channels."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from recurra import registry
from recurra.state import State


class Block(nn.Module):
    """x + recurrence(norm(x)), then x + gated MLP(norm(x)).

    Args:
        name: of the recurrence, as in the registry.
        width: channels of x.
        mlp: hidden channels of the gated MLP.
        dropout: of what the block adds, while training.
    """

    def __init__(self, name: str, width: int, mlp: int, dropout: float):
        super().__init__()
        self.recurrence_norm = nn.RMSNorm(width, eps=1e-6)
        self.recurrence = registry.layer(name, width)
        self.mlp_norm = nn.RMSNorm(width, eps=1e-6)
        self.mlp_in = nn.Linear(width, 2 * mlp, bias=False)
        self.mlp_out = nn.Linear(mlp, width, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, state: State | None, **options: Any) -> tuple[Tensor, State]:
        """x [B, T, D] and the recurrence's state to the same; options are those of a layer."""
        y, state = self.recurrence(self.recurrence_norm(x), state, **options)
        x = x + self.dropout(y)
        gate, value = self.mlp_in(self.mlp_norm(x)).chunk(2, -1)
        return x + self.dropout(self.mlp_out(nn.functional.silu(gate) * value)), state
