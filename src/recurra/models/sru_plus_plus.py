"""SRU++: the maps of a simple recurrent unit give way to attention, and the recurrence stays."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from recurra import check, options
from recurra.attention.causal import CausalAttention
from recurra.models.step_by_step import StepByStep
from recurra.nn.linear import Linear
from recurra.problem import StepInput, constant
from recurra.recurrences.sru import SRU
from recurra.state import State

PARTS = ("attention", "recurrence")


class Summary(CausalAttention):
    """U_t = W_o norm(z_t + alpha a_t), a_t the causal attention of z_t [P] to all z_i, i <= t, without positions.

    The result is [.., 3 D], D = `width`. Queries are z itself; keys and values are linear in it.
    """

    def __init__(self, width: int, size: int, heads: int):
        super().__init__(size, heads, rotary=0.0)
        self.to_query = nn.Identity()  # type: ignore[assignment]
        self.norm, self.alpha = nn.LayerNorm(size), nn.Parameter(torch.zeros(()))
        self.to_output = Linear(size, 3 * width, bias=False)

    @property
    def output_width(self) -> int:
        return self.to_output.out_features

    def outputs(self, y: Tensor, x: Tensor) -> Tensor:
        return self.to_output(self.norm(x + self.alpha.to(x.dtype) * y.flatten(2)))


class Core(SRU):
    """The recurrence of `SRU` on maps that are made elsewhere: `maps` [B, T, 3 D], of its value and of its gates."""

    def __init__(self, width: int):
        super().__init__(width)
        del self.to_value, self.to_gates
        self.bias = nn.Parameter(torch.zeros(2, width))

    def inputs(self, x: Tensor, *, maps: Tensor) -> dict[str, Tensor | StepInput]:
        value, f, r = maps.chunk(3, -1)
        return {"x": x, "value": value, "f": f + self.bias[0], "r": r + self.bias[1], "v": constant(self.recurrent)}


class SRUPlusPlus(StepByStep):
    """Of z_t = W_q x_t: [P], U_t = W_o norm(z_t + alpha a_t), a_t the attention of z_t to z_1 .. z_t (`Summary`)
    f, r = sigmoid(U_{f,r} + b_{f,r} + v_{f,r} c_{t-1}),  c_t = f c_{t-1} + (1 - f) U_c,  y_t = r c_t + (1 - r) x_t.

    The same call as a layer. P = `size`, by default D / 4 made a multiple of `heads`. alpha is zero at first: then this
    is SRU with maps of rank P. The state grows by the keys and values of each time step, 2 P numbers.

    Source: When Attention Meets Fast Recurrence: Training Language Models with Reduced Compute, Lei, 2021,
    arXiv:2102.12459.

    Raises:
        InputError: an option is out of range.
    """

    def __init__(self, width: int, size: int | None = None, heads: int = 1):
        super().__init__()
        self.width = options.count("width", width)
        options.count("heads", heads)
        size = heads * max(width // 4 // heads, 1) if size is None else options.count("size", size)
        self.to_query = Linear(width, size, bias=False)
        self.attention, self.recurrence = Summary(width, size, heads), Core(width)

    def initial_state(self, batch: int) -> State:
        """The state of `batch` sequences before the first time step; names start with `attention` or `recurrence`."""
        attention, recurrence = self.attention.initial_state(batch), self.recurrence.initial_state(batch)
        return State(attention.prefixed(PARTS[0]) | recurrence.prefixed(PARTS[1]))

    def forward(
        self,
        x: Tensor,
        state: Mapping[str, Tensor] | None = None,
        *,
        resets: Tensor | None = None,
        lengths: Tensor | None = None,
        engine: str = "auto",
    ) -> tuple[Tensor, State]:
        """As `Recurrence.forward`: x [B, T, D] to y [B, T, D]; `engine` runs the recurrence, and with "loop" both."""
        check.sequence(self, x)  # type: ignore[arg-type]
        carried = check.parts(type(self).__name__, state, PARTS) or (None, None)
        how = {"resets": resets, "lengths": lengths}
        maps, attention = self.attention(
            self.to_query(x), carried[0], **how, engine="loop" if engine == "loop" else "auto"
        )
        y, recurrence = self.recurrence(x, carried[1], **how, engine=engine, maps=maps)
        return y, State(attention.prefixed(PARTS[0]) | recurrence.prefixed(PARTS[1]))
