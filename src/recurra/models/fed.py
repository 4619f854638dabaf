"""A layer that is fed by a transformer: what models like Zamba share among many of their blocks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from recurra import beside, check, options
from recurra.attention.causal import CausalAttention
from recurra.models.design import Design
from recurra.models.mixers import MLP
from recurra.nn.linear import Linear
from recurra.state import State

EMBEDDED = "embedded"
"""What a fed layer is given beside x: [B, T, D], what flowed into the first block of the model."""

PARTS = ("transformer", "layer")


class Adapted(nn.Module):
    """x to W x + U V x, where W may be a map of others too: U: [out, rank], V: [rank, in], and U starts as zero."""

    def __init__(self, whole: nn.Linear, rank: int):
        super().__init__()
        self.whole = whole
        self.down = Linear(whole.in_features, rank, bias=False)
        self.up = Linear(rank, whole.out_features, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] to [..., out]."""
        return self.whole(x) + self.up(self.down(x))


class Reading(CausalAttention):
    """Attention of two vectors at each time step, one above the other: [B, T, 2 D] to [B, T, D]."""

    def __init__(self, width: int, heads: int, key_heads: int | None, rotary: float, base: float, size: int | None):
        if size is None:
            size = 2 * width // options.divisor("heads", heads, 2 * width, "twice the width")
        # The root of half as many channels: that is how many one of the two vectors would have.
        scale = (options.count("size", size) / 2) ** -0.5
        super().__init__(2 * width, heads, key_heads, rotary, base, size=size, scale=scale)
        self.to_output = Linear(heads * size, width, bias=False)

    @property
    def output_width(self) -> int:
        return self.to_output.out_features


class Transformer(nn.Module):
    """f(x_t, e_t) = MLP(norm(attention(norm([x_t, e_t])))), e_t: [D] what flowed into the first block, MLP gated.

    With a `rank` the first map of the MLP, with an `attention_rank` those to queries, keys and values are `Adapted`, in
    each block by maps of its own; all else is that of `like`, the first transformer of this name.

    Source: Zamba: A Compact 7B SSM Hybrid Model, Glorioso et al., 2024, arXiv:2405.16712; adapters: The Zamba2 Suite,
    Glorioso et al., 2024, arXiv:2411.15242.

    Args:
        width: D.
        design: of the norms.
        like: what parts are shared with.
        heads, key_heads, size, rotary, base: as for `attention`; `size` is 2 D / heads, and nothing turns, by default.
        hidden: of the MLP, by default 4 D.
        activation: of the MLP.

    Raises:
        InputError: an option is out of range.
    """

    endless = True

    def __init__(
        self,
        width: int,
        design: Design,
        like: Transformer | None = None,
        *,
        heads: int = 4,
        key_heads: int | None = None,
        size: int | None = None,
        rotary: float = 0.0,
        base: float = 10000.0,
        hidden: int | None = None,
        activation: str = "gelu",
        rank: int = 0,
        attention_rank: int = 0,
    ):
        super().__init__()
        self.norm, self.inner_norm = design.make_norm(2 * width), design.make_norm(width)
        self.attention = Reading(width, heads, key_heads, rotary, base, size)
        self.mlp = MLP(width, 4 * width if hidden is None else hidden, activation=activation)
        options.whole("rank", rank)
        options.whole("attention_rank", attention_rank)
        adapted = {
            "norm": 0, "inner_norm": 0, "mlp.to_hidden": rank, "mlp.to_output": 0, "attention.to_output": 0,
            **dict.fromkeys(("attention.to_query", "attention.to_key", "attention.to_value"), attention_rank),
        }  # fmt: skip
        for name, own in adapted.items():
            part = (self if like is None else like).get_submodule(name)
            part = part.whole if isinstance(part, Adapted) else part
            self.set_submodule(name, Adapted(part, own) if own else part)  # type: ignore[arg-type]

    def initial_state(self, batch: int) -> State:
        """That of the attention."""
        return self.attention.initial_state(batch)

    def forward(self, x: Tensor, embedded: Tensor, state: State | None, **how: Any) -> tuple[Tensor, State]:
        """x and what was embedded, [B, T, D] each, to f [B, T, D] and the new state."""
        y, after = self.attention(self.norm(torch.cat([x, embedded.to(x.dtype)], -1)), state, **how)
        return self.mlp.mix(self.inner_norm(y)), after


class Fed(nn.Module):
    """layer(norm(x + W f(x, e))), f a `Transformer`: x goes on past the block as it is. W: [D, D] is the block's own.

    Called as a layer is, and with what was embedded; names in the state begin with those in `PARTS`.
    """

    endless = True

    def __init__(self, width: int, transformer: Transformer, layer: Any, norm: nn.Module):
        super().__init__()
        self.transformer, self.to_layer = transformer, Linear(width, width, bias=False)
        self.norm, self.layer = norm, layer

    @property
    def beside(self) -> Mapping[str, bool]:
        """As `Layer.beside`, of the layer, and what was embedded."""
        return {**self.layer.beside, EMBEDDED: True}

    @property
    def output_width(self) -> int:
        """Channels of the output."""
        return self.layer.output_width

    def initial_state(self, batch: int) -> State:
        """The state before the first time step."""
        first, second = self.transformer.initial_state(batch), self.layer.initial_state(batch)
        return State(first.prefixed(PARTS[0]) | second.prefixed(PARTS[1]))

    def forward(
        self, x: Tensor, state: Any = None, *, embedded: Tensor, aux: bool = False, **how: Any
    ) -> tuple[Any, ...]:
        """As `Layer.forward`."""
        first, second = check.parts("this block", state, PARTS) or (None, None)
        own = {name: value for name, value in how.items() if name not in self.layer.beside}
        read, attended = self.transformer(x, embedded, first, **own)
        y, new, told = self.layer(self.norm(x + self.to_layer(read)), second, aux=True, **how)
        after = State(attended.prefixed(PARTS[0]) | new.prefixed(PARTS[1]))
        return (y, after, beside.prefixed(PARTS[1], told)) if aux else (y, after)
