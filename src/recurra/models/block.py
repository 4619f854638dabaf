"""The residual block that models stack: a recurrence mixes over time, a gated MLP over channels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from recurra import check
from recurra.models import held
from recurra.models.design import Design
from recurra.models.pattern import feeder
from recurra.nn.linear import Linear
from recurra.pointwise import Dropout
from recurra.state import State


class Block(nn.Module):
    """x + recurrence(norm(x)), then x + gated MLP(norm(x)).

    The options of a recurrence may hold some that are the block's: `gain`, a factor of what the recurrence gives, and
    `keep`, one of what that is added to; `norm_at`, where its norm stands: "before", as above; "after",
    x + norm(recurrence(x)); "around", norm(x) + recurrence(norm(x)); "both", x + norm'(recurrence(norm(x))).

    Args:
        name: of the recurrence, as in a pattern: in the registry, a channel mixer, or several side by side.
        width: channels of x.
        mlp: hidden channels of the gated MLP; 0 leaves it out, with its norm.
        dropout: of what the block adds, while training.
        layers: options of recurrences, by their names in the pattern.
        design: which norm, activation and biases.
        bidirectional: the recurrence stands beside one that runs backwards.
        gives: channels that the recurrence gives, if that is known. A linear map makes them as many as x has, if they
            are not.
        shared: layers of other blocks by the names that stand for one layer wherever they stand; those of this block
            are added.
    """

    def __init__(
        self,
        name: str,
        width: int,
        mlp: int,
        dropout: float,
        layers: Mapping[str, Mapping[str, Any]] | None = None,
        design: Design | None = None,
        bidirectional: bool = False,
        gives: int | None = None,
        shared: dict[str, nn.Module] | None = None,
    ):
        super().__init__()
        self.design = design = design or Design()
        self.norm_at, self.keep = held.around(name, layers or {})
        # The norm of a layer that is fed stands behind what feeds it, and is the layer's.
        self.recurrence_norm = nn.Identity() if feeder(name) else design.make_norm(width)
        self.norm_behind = design.make_norm(width) if self.norm_at == "both" else None
        shared = {} if shared is None else shared
        self.recurrence: Any = held.make(name, width, layers or {}, bidirectional, shared, design)
        self.gives: int = self.recurrence.output_width if gives is None else gives
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
        own = check.representative(self.recurrence)
        dtype = x.dtype if own is None else own.dtype
        read = x.to(dtype) if self.norm_at == "after" else self.recurrence_norm(x.to(dtype))
        y, state, *more = self.recurrence(read, state, **options)
        y = y if self.join is None else self.join(y)
        if self.norm_at == "after":
            y = self.recurrence_norm(y)
        y = y if self.norm_behind is None else self.norm_behind(y)
        kept = read if self.norm_at == "around" else x
        x = (kept if self.keep == 1 else self.keep * kept) + self.dropout(y)
        if not self.mlp:
            return x, state, *more
        gate, value = self.mlp_in(self.mlp_norm(x.to(dtype))).chunk(2, -1)
        return x + self.dropout(self.mlp_out(self.design.activate(gate) * value)), state, *more
