"""A model of any task: inlet, backbone, pool and what leads to the head's numbers, with one flat state."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from recurra import check
from recurra.models.backbone import Backbone
from recurra.nn.linear import Linear, linear
from recurra.state import State
from recurra.tasks.chain import start
from recurra.tasks.heads.head import Around, Head
from recurra.tasks.inlet import Encoding, Inlet, Scale

PARTS = ("scale", "blocks", "pool")
"""What names in the state begin with."""


class Outlook(nn.Module):
    """What has been read, [B, T, D], to the raw numbers of a head at each of the next `horizon` steps,
    [B, T, horizon, size]; and what is known of those steps, [B, T, horizon, ...], enters each.

    raw_j = W_j y + V silu(P y + encoding(known_j) + p_j); without anything known ahead W_j y alone.

    Args:
        size: of the raw numbers.
        known: encodes what is known ahead, to the width of the hidden layer.
    """

    def __init__(self, width: int, horizon: int, size: int, known: Encoding | None = None):
        super().__init__()
        self.horizon, self.size, self.known = horizon, size, known
        self.direct = Linear(width, horizon * size)
        if known is not None:
            self.of_read = Linear(width, known.width, bias=False)
            self.place = nn.Parameter(torch.zeros(horizon, known.width))
            self.of_hidden = Linear(known.width, size, bias=False)

    def forward(self, y: Tensor, ahead: Mapping[str, Tensor] | None = None, steps: int | None = None) -> Tensor:
        """raw [..., steps, size] of y [..., D] and columns ahead [..., steps, *width]; all steps of the horizon, or the
        first few."""
        steps = self.horizon if steps is None else steps
        if self.known is None or ahead is None:
            return self.raw(y, None, steps)
        return self.raw(y, self.known(ahead, torch.Size((*y.shape[:-1], steps))), steps)

    def raw(self, y: Tensor, encoded: Tensor | None, steps: int) -> Tensor:
        """As `forward`, of what is known ahead, encoded [..., steps, width]."""
        first = slice(0, steps * self.size)
        raw = linear(y, self.direct.weight[first], self.direct.bias[first])
        raw = raw.unflatten(-1, (steps, self.size))
        if encoded is None:
            return raw
        hidden = encoded + self.of_read(y)[..., None, :] + self.place[:steps]
        return raw + self.of_hidden(nn.functional.silu(hidden))


@dataclass(frozen=True)
class Read:
    """What a model has made of the steps so far."""

    y: Tensor
    """[B, T, D]: what the pool shows, then what the inlet gives beside."""
    scale: Scale
    """Of the series that the inlet reads, [B, T, channels]."""

    def at(self, rows: Tensor, steps: Tensor) -> Read:
        """At some steps, [n, 1, ...] each: of row `rows[i]` the step `steps[i]`."""
        return self._map(lambda t: t[rows, steps][:, None])

    def after(self, before: Read) -> Read:
        """At each step what had been read one step earlier; at the first that is `before`, [B, 1, ...]."""
        return joined([before, self._map(lambda t: t[:, :-1])], 1)

    @property
    def last(self) -> Read:
        """At the last step, [B, 1, ...]."""
        return self._map(lambda t: t[:, -1:])

    def _map(self, function: Callable[[Tensor], Tensor]) -> Read:
        return Read(function(self.y), Scale(function(self.scale.mean), function(self.scale.deviation)))

    def where(self, chosen: Tensor, other: Read) -> Read:
        """This where chosen [B], elsewhere the other."""
        these, others = ((r.y, r.scale.mean, r.scale.deviation) for r in (self, other))
        found = [torch.where(chosen[:, None, None], a, b) for a, b in zip(these, others, strict=True)]
        return Read(found[0], Scale(found[1], found[2]))

    def around(self, channels: int) -> Around:
        """The scale of the first channels, for raw numbers [B, T, horizon, channels]."""
        return Around(*(t[..., None, :channels] for t in (self.scale.mean, self.scale.deviation)))


def joined(reads: Sequence[Read], axis: int = 0) -> Read:
    """Several as one, along an axis."""
    y, mean, deviation = (
        torch.cat([get(read) for read in reads], axis)
        for get in (lambda r: r.y, lambda r: r.scale.mean, lambda r: r.scale.deviation)
    )
    return Read(y, Scale(mean, deviation))


class Model(nn.Module):
    """Columns [B, T, ...] to the raw numbers of a head: `raw, state = model(columns, state, ...)`.

    The state is one flat `State`: `scale.*` of the inlet, `blocks.*` of the backbone, `pool.*`.

    Args:
        inlet, backbone, pool: of one width.
        outlook: from what the pool shows, and the inlet beside, to raw numbers; a linear map, or an `Outlook`.
        head: the distribution that raw numbers say.
    """

    def __init__(self, inlet: Inlet, backbone: Backbone, pool: nn.Module, outlook: nn.Module, head: Head):
        super().__init__()
        self.inlet, self.backbone, self.pool, self.outlook, self.head = inlet, backbone, pool, outlook, head

    def initial_state(self, batch: int) -> State:
        """The state before the first time step."""
        return State(
            self.inlet.initial_state(batch).prefixed("scale")
            | self.backbone.initial_state(batch)
            | start(self.pool, batch, self.inlet.mean).prefixed("pool")
        )

    def read(
        self,
        columns: Mapping[str, Tensor],
        state: Mapping[str, Tensor] | None = None,
        *,
        resets: Tensor | None = None,
        lengths: Tensor | None = None,
        engine: str = "auto",
        look: bool = True,
    ) -> tuple[Read, State]:
        """All but the outlook: what the pool shows at each step, and the new state. Without `look` no shapes are looked
        for."""
        scale, blocks, pool = check.parts("this model", state, PARTS) or (None, None, None)
        how = {"resets": resets, "lengths": lengths, "engine": engine}
        x, spread, scale = self.inlet(columns, scale, look=look, **how)
        if blocks is not None:
            blocks = blocks.prefixed("blocks")
        x, beside = x.tensor_split((self.backbone.width,), -1)
        y, blocks = self.backbone(x, blocks, **how)
        y, pool = self.pool(y, pool, **how)
        if beside.shape[-1]:
            y = torch.cat([y, beside], -1)
        return Read(y, spread), State(scale.prefixed("scale") | blocks | pool.prefixed("pool"))

    def forward(
        self,
        columns: Mapping[str, Tensor],
        state: Mapping[str, Tensor] | None = None,
        *,
        ahead: Mapping[str, Tensor] | None = None,
        resets: Tensor | None = None,
        lengths: Tensor | None = None,
        engine: str = "auto",
    ) -> tuple[Tensor, State]:
        """Raw numbers at each step and the State after the last.

        Args:
            columns: those that the inlet reads, [B, T, *width] each.
            ahead: those that the outlook reads, [B, T, horizon, *width] each.
            state, resets, lengths, engine: as for a layer.

        Raises:
            InputError: an argument does not fit.
        """
        read, state = self.read(columns, state, resets=resets, lengths=lengths, engine=engine)
        return (self.outlook(read.y) if ahead is None else self.outlook(read.y, ahead)), State(state)
