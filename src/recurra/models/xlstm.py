"""The xLSTM block stack: mLSTM and sLSTM layers in residual blocks, in any order."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from recurra import check, options
from recurra.errors import InputError
from recurra.models.pattern import parse
from recurra.models.step_by_step import StepByStep
from recurra.nn.linear import Linear
from recurra.problem import StepInput, cast, compute_dtype, constant
from recurra.recurrence import Recurrence
from recurra.recurrences.mlstm import MLSTM
from recurra.recurrences.slstm import SLSTM
from recurra.state import State
from recurra.windows import Past


class XLSTM(StepByStep):
    """Blocks x + layer(norm(x)), and a norm at the end; the same call as a layer: `y, state = stack(x, state, ...)`.

    The layer of an "mlstm" block is `MLSTM`, which holds the block's projections, convolution, skip and gate already.
    That of an "slstm" block is `BlockSLSTM`, and x + feed-forward(norm(x)) follows it, a gated one with gelu. Norms are
    layer norms without bias.

    Args:
        width: channels of x.
        pattern: which layer each block holds; the default is the paper's xLSTM[7:1].
        heads: of every layer.
        factor: hidden width of the feed-forwards over the width, rounded up to a multiple of 64.

    Source: xLSTM: Extended Long Short-Term Memory, Beck, Pöppel, Spanring, Auer et al., 2024, arXiv:2405.04517, and its
    published code, whose block stack this is.

    Raises:
        InputError: the pattern names other layers, or an option is out of range.
    """

    def __init__(self, width: int, pattern: str = "mlstm*7+slstm", heads: int = 4, factor: float = 1.3):
        super().__init__()
        self.width = options.count("width", width)
        hidden = 64 * math.ceil(options.number("factor", factor, 1e-6) * width / 64)
        names = parse(pattern)
        if strange := sorted(set(names) - {"mlstm", "slstm"}):
            raise InputError(f"pattern {pattern!r} names {strange}; expected mlstm and slstm only")
        self.blocks = nn.ModuleList(Block(name, width, heads, hidden, len(names)) for name in names)
        self.norm = nn.LayerNorm(width, bias=False)

    def initial_state(self, batch: int) -> State:
        """The state before the first time step; names start with `blocks.<number>`."""
        state = State()
        for i, block in enumerate(self.blocks):
            assert isinstance(block, Block)
            state |= block.layer.initial_state(batch).prefixed(f"blocks.{i}")
        return State(state)

    def forward(
        self,
        x: Tensor,
        state: Mapping[str, Tensor] | None = None,
        *,
        resets: Tensor | None = None,
        lengths: Tensor | None = None,
        engine: str = "auto",
    ) -> tuple[Tensor, State]:
        """As `Recurrence.forward`."""
        check.sequence(self, x)  # type: ignore[arg-type]
        resets, lengths = check.resets(resets, x), check.lengths(lengths, x)
        valid = None
        if lengths is not None:
            valid = (torch.arange(x.shape[1], device=x.device) < lengths[:, None])[..., None]
            x = torch.where(valid, x, 0)
        carried, out = check.parts("this stack", state, [f"blocks.{i}" for i in range(len(self.blocks))]), State()
        for i, block in enumerate(self.blocks):
            own = None if carried is None else carried[i]
            x, new = block(x, own, resets=resets, lengths=lengths, engine=engine)
            out |= new.prefixed(f"blocks.{i}")
        y = self.norm(x)
        return y if valid is None else torch.where(valid, y, 0), State(out)


class Block(nn.Module):
    """x + layer(norm(x)), and for sLSTM x + feed-forward(norm(x)) after it.

    Args:
        name: "mlstm" or "slstm".
        hidden: channels of the feed-forward.
        blocks: in the whole stack; what leads out of a block starts smaller the more there are.
    """

    def __init__(self, name: str, width: int, heads: int, hidden: int, blocks: int):
        super().__init__()
        self.norm = nn.LayerNorm(width, bias=False)
        self.layer: Recurrence = MLSTM(width, heads) if name == "mlstm" else BlockSLSTM(width, heads)
        self.widen = self.narrow = None
        out = 2 / blocks / math.sqrt(width)
        if isinstance(self.layer, MLSTM):
            nn.init.normal_(self.layer.to_output.weight, std=out)
        else:
            self.feedforward_norm = nn.LayerNorm(width, bias=False)
            self.widen, self.narrow = Linear(width, 2 * hidden, bias=False), Linear(hidden, width, bias=False)
            nn.init.normal_(self.widen.weight, std=math.sqrt(2 / (5 * width)))
            nn.init.normal_(self.narrow.weight, std=out)

    def forward(self, x: Tensor, state: State | None, **options: Any) -> tuple[Tensor, State]:
        """x [B, T, D] and the layer's state to the same; options are those of a layer."""
        y, state = self.layer(self.norm(x), state, **options)
        x = x + y
        if self.widen is not None and self.narrow is not None:
            gate, value = self.widen(self.feedforward_norm(x)).chunk(2, -1)
            x = x + self.narrow(nn.functional.gelu(gate) * value)
        return x, state


class BlockSLSTM(SLSTM):
    """sLSTM as its block holds it: i~ and f~ read silu(conv(x)) where z~ and o~ read x; the result is w * norm(h).

    The norm is a layer norm within each head, w: [D]. All else is in `SLSTM`.
    """

    def __init__(self, width: int, heads: int = 4, kernel: int = 4):
        super().__init__(width, heads)
        self.windows = {"conv": (width, options.count("kernel", kernel) - 1)}
        self.conv_weight = nn.Parameter(torch.empty(width, kernel).uniform_(-(kernel**-0.5), kernel**-0.5))
        self.conv_bias = nn.Parameter(torch.empty(width).uniform_(-(kernel**-0.5), kernel**-0.5))
        self.norm_weight = nn.Parameter(torch.ones(width))
        nn.init.zeros_(self.recurrent)

    def inputs(self, x: Tensor, past: Past) -> dict[str, Tensor | StepInput]:
        u = past.convolve("conv", x, self.conv_weight, self.conv_bias, silu=True)
        dtype = compute_dtype(x.dtype)
        halves = cast(self.weight, dtype).chunk(2, 1)
        gates = [
            torch.einsum("bthi,hji->bthj", cast(read, dtype).unflatten(-1, (self.heads, -1)), half)
            for read, half in zip((u, x), halves, strict=True)
        ]
        return {"gates": torch.cat(gates, -1), "bias": constant(self.bias), "recurrent": constant(self.recurrent)}

    def step(
        self, c: Tensor, n: Tensor, h: Tensor, m: Tensor, gates: Tensor, bias: Tensor, recurrent: Tensor
    ) -> tuple[tuple[Tensor, ...], Tensor]:
        return self.gated(c, n, m, gates + bias + recurrent @ h)

    def outputs(self, y: Tensor, x: Tensor) -> Tensor:  # noqa: ARG002
        return nn.functional.layer_norm(y, (self.size,)).flatten(2) * self.norm_weight.to(y.dtype)
