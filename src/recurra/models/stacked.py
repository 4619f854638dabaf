"""Any layer in depth and in both directions, as `torch.nn.LSTM(num_layers=..., bidirectional=...)` has it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from recurra import beside, check, options, packed
from recurra.contract import Layer
from recurra.errors import InputError
from recurra.state import State

WAYS = ("", ".reverse")
"""What follows a layer's number in the names of its state: nothing if it runs forwards."""


class ExplainedStack(dict[str, Any]):
    """For every layer of a stack, by its name in the state, what its own `explain` says; printed, all of them."""

    def __str__(self) -> str:
        return "\n\n".join(f"Layer {name}: {said['structure']}\n{said}" for name, said in self.items())


class Stacked(nn.Module):
    """`num_layers` recurrences on top of one another; with `bidirectional`, each beside one that runs backwards.

    The same call as a single layer: `y, state = stacked(x, state, resets=..., lengths=...)`. Bidirectional outputs are
    [forward, backward] along the last axis. A state_dict of `torch.nn.RNN`, `LSTM` or `GRU` of the same depth and
    directions loads as it is.

    Args:
        make: builds one recurrence for a given input width.
        width: channels of x.
    """

    def __init__(self, make: Callable[[int], Layer], width: int, num_layers: int = 1, bidirectional: bool = False):
        super().__init__()
        options.function("make", make)
        options.count("num_layers", num_layers, options.LAYERS)
        self.width, self.bidirectional = options.count("width", width), options.flag("bidirectional", bidirectional)
        self.layers = nn.ModuleList()
        for _ in range(num_layers):
            directions = [make(width) for _ in range(2 if bidirectional else 1)]
            self.layers.append(nn.ModuleList(directions))
            width = sum(layer.output_width for layer in directions)
        self.output_width = width
        self.register_load_state_dict_pre_hook(_accept_torch_names)

    @property
    def _directions(self) -> list[list[Layer]]:
        """Per layer the forward and, if there is one, the backward recurrence."""
        return [list(directions) for directions in self.layers]  # type: ignore[call-overload]

    @property
    def _named(self) -> dict[str, Layer]:
        """Every recurrence by its name in the state."""
        ways = [zip(WAYS, directions, strict=False) for directions in self._directions]
        return {f"{i}{way}": layer for i, both in enumerate(ways) for way, layer in both}

    def extra_repr(self) -> str:
        return f"{self.width}, num_layers={len(self.layers)}" + ", bidirectional=True" * self.bidirectional

    @property
    def beside(self) -> Mapping[str, bool]:
        """As `Layer.beside`, of all layers."""
        return beside.taken_by_all(self._named.values())

    @property
    def endless(self) -> bool:
        """Whether the state grows without bound."""
        return any(layer.endless for layer in self._named.values())

    @property
    def structure(self) -> dict[str, Any]:
        """As `Layer.structure`, for every layer by its name in the state."""
        return {name: layer.structure for name, layer in self._named.items()}

    def explain(self, x: Tensor, **named: Tensor | None) -> ExplainedStack:
        """As `Layer.explain`, for every layer by its name in the state, on inputs as long as x [B, T, D]."""
        given = beside.named("this stack", self.beside, named)
        check.sequence(self._directions[0][0], x)
        nothing = x.new_zeros(1)
        return ExplainedStack(
            {
                name: layer.explain(nothing.expand(*x.shape[:2], layer.width), **beside.for_part(layer, given))
                for name, layer in self._named.items()
            }
        )

    def trim(self, state: Mapping[str, Tensor]) -> State:
        """As `Layer.trim`, of every layer. Raises InputError if it is not a state of this stack."""
        given, out = State() if state is None else state, State()
        parts = check.parts("this stack", given, [str(i) for i in range(len(self.layers))]) or []
        for i, (own, directions) in enumerate(zip(parts, self._directions, strict=True)):
            ways = [own]
            if self.bidirectional:
                ahead = State({name: t for name, t in own.items() if not name.startswith("reverse.")})
                ways = [ahead, own.under("reverse")]
            for layer, part, way in zip(directions, ways, WAYS, strict=False):
                out |= layer.trim(part).prefixed(f"{i}{way}")
        return State(out)

    def initial_state(self, batch: int) -> State:
        """The state before the first time step; names start with the layer's number."""
        state = State()
        for i, directions in enumerate(self._directions):
            state |= directions[0].initial_state(batch).prefixed(str(i))
        return State(state)

    def forward(
        self,
        x: Tensor | PackedSequence,
        state: Mapping[str, Tensor] | None = None,
        *,
        resets: Tensor | None = None,
        lengths: Tensor | None = None,
        engine: str = "auto",
        aux: bool = False,
        **named: Tensor | None,
    ) -> tuple[Any, ...]:
        """As `Layer.forward`; what is given by name goes to the layers that take it. What layers give beside y has
        their names in the state before its own.

        Raises InputError if a state is given to a bidirectional stack.
        """
        if isinstance(x, PackedSequence):
            return packed.through(self, x, state, resets=resets, lengths=lengths, engine=engine, aux=aux, **named)
        if self.bidirectional and state is not None:
            raise InputError(
                "state was given to a bidirectional stack; the backward direction starts at the end: pass None"
            )
        check.sequence(self._directions[0][0], x)
        below: Tensor = x
        carried, out = check.parts("this stack", state, [str(i) for i in range(len(self.layers))]), State()
        lengths = check.lengths(lengths, x)
        valid = None if lengths is None else torch.arange(x.shape[1], device=x.device) < lengths[:, None]
        given = beside.at_steps(beside.named("this stack", self.beside, named), x.shape[:2], x.device, valid)
        more: dict[str, Tensor] = {}
        for i, directions in enumerate(self._directions):
            own = None if carried is None else carried[i]
            ahead = beside.for_part(directions[0], given)
            y, new, told = directions[0](below, own, resets=resets, lengths=lengths, engine=engine, aux=True, **ahead)
            out |= new.prefixed(str(i))
            more |= beside.prefixed(str(i), told)
            if self.bidirectional:
                order = reversal(below, lengths)
                back = {name: take(value, order) for name, value in beside.for_part(directions[1], given).items()}
                z, new, told = directions[1](
                    take(below, order), resets=ends(resets, order), lengths=lengths, engine=engine, aux=True, **back
                )
                out |= new.prefixed(f"{i}.reverse")
                more |= beside.prefixed(f"{i}.reverse", {name: take(value, order) for name, value in told.items()})
                y = torch.cat([y, take(z, order)], -1)
            below = y
        return (below, State(out), more) if aux else (below, State(out))

    def advance(
        self,
        x_t: Tensor,
        state: Mapping[str, Tensor] | None = None,
        *,
        engine: str = "auto",
        aux: bool = False,
        **named: Tensor | None,
    ) -> tuple[Any, ...]:
        """One time step: x_t [B, D] to y_t. Raises InputError for a bidirectional stack, which cannot be streamed."""
        if self.bidirectional:
            raise InputError(
                "advance was called on a bidirectional stack, which needs the whole sequence: call forward"
            )
        check.time_step(x_t, self.width)
        return beside.one_step(self, x_t, state, engine=engine, aux=aux, **named)


def reversal(x: Tensor, lengths: Tensor | None) -> Tensor:
    """[B, T] positions that turn the valid part of every row around."""
    steps = torch.arange(x.shape[1], device=x.device).expand(x.shape[:2])
    if lengths is None:
        return x.shape[1] - 1 - steps
    return torch.where(steps < lengths[:, None], lengths[:, None] - 1 - steps, steps)


def take(x: Tensor, order: Tensor) -> Tensor:
    """x [B, T, ...] at the positions [B, T]."""
    return x.gather(1, order[(..., *[None] * (x.dim() - 2))].expand(-1, -1, *x.shape[2:]))


def ends(resets: Tensor | None, order: Tensor) -> Tensor | None:
    """Where sequences start when read backwards: at their last time step."""
    if resets is None:
        return None
    last = torch.cat([resets[:, 1:], torch.zeros_like(resets[:, :1])], 1)
    return last.gather(1, order)


def _accept_torch_names(_: nn.Module, state_dict: dict[str, Any], prefix: str, *_rest: Any) -> None:
    """Rename `weight_ih_l1_reverse` of `torch.nn` to `layers.1.1.weight_ih_l0`."""
    for name in list(state_dict):
        match = re.fullmatch(re.escape(prefix) + r"((?:weight|bias)_(?:[ih]h|hr))_l(\d+)(_reverse)?", name)
        if match:
            kind, depth, back = match.groups()
            state_dict[f"{prefix}layers.{depth}.{int(back is not None)}.{kind}_l0"] = state_dict.pop(name)
