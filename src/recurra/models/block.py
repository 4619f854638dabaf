"""The residual block that models stack: a recurrence mixes over time, a gated MLP over channels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from recurra import check, registry
from recurra.models.design import Design
from recurra.nn.linear import Linear
from recurra.pointwise import Dropout
from recurra.state import State


class Block(nn.Module):
    """x + recurrence(norm(x)), then x + gated MLP(norm(x)).

    Args:
        name: of the recurrence, as in the registry.
        width: channels of x.
        mlp: hidden channels of the gated MLP; 0 leaves it out, with its norm.
        dropout: of what the block adds, while training.
        options: of the recurrence.
        design: which norm, activation and biases.
        bidirectional: the recurrence stands beside one that runs backwards.
        gives: channels that the recurrence gives, if that is known. A linear map makes them as many as x has, if they
            are not.
    """

    def __init__(
        self,
        name: str,
        width: int,
        mlp: int,
        dropout: float,
        options: Mapping[str, Any] | None = None,
        design: Design | None = None,
        bidirectional: bool = False,
        gives: int | None = None,
    ):
        super().__init__()
        self.design = design = design or Design()
        self.recurrence_norm = design.make_norm(width)
        directions: dict[str, Any] = {"bidirectional": True} if bidirectional else {}
        self.recurrence = registry.layer(name, width, **directions, **(options or {}))
        self.gives = self.recurrence.output_width if gives is None else gives
        self.join = Linear(self.gives, width, bias=False) if self.gives != width else None
        self.dropout = Dropout(dropout)
        self.mlp = mlp
        if mlp:
            self.mlp_norm = design.make_norm(width)
            self.mlp_in = Linear(width, 2 * mlp, bias=design.mlp_bias)
            self.mlp_out = Linear(mlp, width, bias=design.mlp_bias)

    @property
    def beside(self) -> Mapping[str, bool]:
        """As `Layer.beside`, of the recurrence."""
        return self.recurrence.beside

    def forward(self, x: Tensor, state: State | None, **options: Any) -> tuple[Any, ...]:
        """x [B, T, D] and the recurrence's state to the same, and what else the recurrence gives; options are those of
        a layer."""
        held = check.representative(self.recurrence)
        dtype = x.dtype if held is None else held.dtype
        y, state, *more = self.recurrence(self.recurrence_norm(x.to(dtype)), state, **options)
        x = x + self.dropout(y if self.join is None else self.join(y))
        if not self.mlp:
            return x, state, *more
        gate, value = self.mlp_in(self.mlp_norm(x.to(dtype))).chunk(2, -1)
        return x + self.dropout(self.mlp_out(self.design.activate(gate) * value)), state, *more
