"""The contract of layers whose state grows: attention as a recurrence over everything it has seen."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from recurra import check
from recurra.attention import cache, loop
from recurra.attention.call import Call
from recurra.contract import Layer
from recurra.engines.choose import ENGINES, Explained, note
from recurra.engines.gate import hidden, hindrance, is_fake, is_mapped
from recurra.engines.unseen import unseen
from recurra.errors import EngineRefused, InputError
from recurra.options import shown
from recurra.problem import Lane
from recurra.state import State
from recurra.windows import Past

OWN = ("parallel", "loop")
"""Engines that run attention: all time steps at once, and the reference, one after the other."""


class Attention(Layer, ABC):
    """A layer that keeps something of every time step, or of every few, and looks at all it has kept.

    Its state has, besides `position` [B], the number of time steps seen, entries [B, lanes, S, ...] for the names in
    `growing`: oldest first, the newest at S - 1. Row b has `kept(position[b])` of them; what is in front of these is
    zero and stands for nothing. A subclass writes

    - `start(self, like)`: names to tensors [lanes, 0, ...] for what grows, [lanes, ...] for the rest of the state.
    - `inputs(self, x, position, past)`: names to what a step reads, [B, T, lanes, ...], for all time steps at once.
      `position` [B, T] counts from each sequence's own start; `past` is as for a `Recurrence` (see `recurra.windows`).
    - `kept(self, position)`: how many entries there are after so many time steps.
    - `step(self, *states, present, **inputs)`: one time step of one lane of one sequence. A growing state comes as
      [S, ...], with zeros for entries that are not `present` [S], and leaves as [S + 1, ...]. Returns
      `((state, ...), output)`. It says what the layer is; the engine "loop" runs it.
    - `parallel(self, call)`: outputs [B, T, lanes, ...] and the new states of a `Call`, for all time steps at once.
    - `outputs(self, y, x)`: from what the steps gave, [B, T, lanes, ...], to the layer's result. Optional.
    """

    lane = Lane.HEAD
    growing: tuple[str, ...] = ("keys", "values")

    @abstractmethod
    def start(self, like: Tensor) -> dict[str, Tensor]:
        """The state before the first time step, in the dtype and on the device of `like`."""

    @abstractmethod
    def inputs(self, x: Tensor, position: Tensor, past: Past, **named: Any) -> dict[str, Tensor]:
        """What a step reads, for all time steps at once."""

    @abstractmethod
    def kept(self, position: Tensor) -> Tensor:
        """Entries held after `position` time steps."""

    @abstractmethod
    def step(self, *states: Tensor, present: Tensor, **inputs: Tensor) -> tuple[Any, Tensor]:
        """One time step of one lane of one sequence."""

    @abstractmethod
    def parallel(self, call: Call) -> tuple[Tensor, dict[str, Tensor]]:
        """All time steps at once."""

    def outputs(self, y: Tensor, x: Tensor) -> Tensor:  # noqa: ARG002
        """The layer's result; by default y with all its axes after time flattened."""
        return y.flatten(2)

    @property
    def endless(self) -> bool:
        return True

    @property
    def output_width(self) -> int:
        return self.width  # not found by running: without values nobody knows how many entries there are

    def _fresh(self, batch: int, like: Tensor | None) -> State:
        state = super()._fresh(batch, like)
        position = torch.zeros(batch, dtype=torch.int64, device=self._reference(like).device)
        return State(state | {"position": position})

    def trim(self, state: Mapping[str, Tensor]) -> State:
        own = super().trim(state)
        self._check(own)
        fewest = cache.most(self.kept(own["position"]))
        return State({n: v[:, :, v.shape[2] - fewest :] if n in self.growing else v for n, v in own.items()})

    @property
    def structure(self) -> Any:
        raise InputError(
            f"{type(self).__name__} has no structure: its state grows with time, and with it the step's Jacobian; "
            "explain(x) says what runs it"
        )

    def refusals(self, x: Tensor, **named: Tensor | None) -> dict[str, str | None]:  # noqa: ARG002
        check.sequence(self, x)
        reason = f"its state grows with time, and only {' and '.join(map(repr, OWN))} run such layers"
        return dict.fromkeys(OWN) | {name: reason for name in ENGINES if name not in OWN}

    def explain(self, x: Tensor, **named: Tensor | None) -> dict[str, Any]:
        runs = {
            "parallel": "always picked: what else can run it is the reference",
            "loop": "only if named: the reference",
        }
        return Explained(
            structure="attention over a state that grows with time",
            engine=OWN[0],
            expected={
                name: {"runs": runs[name]} if reason is None else {"refuses": reason}
                for name, reason in self.refusals(x, **named).items()
            },
        )

    def _check(self, state: State) -> None:
        """The parts of a state that no shape shows fit each other. Raises InputError."""
        entries = {name: state[name].shape[2] for name in self.growing}
        if len(set(entries.values())) > 1:
            raise InputError(f"state holds {entries} entries; expected as many of each")
        position, size = state["position"], next(iter(entries.values()))
        wrong = (position < 0) | (self.kept(position) > size)
        if not torch.compiler.is_compiling() and hidden(state.values()) is None and wrong.any():
            row = int(wrong.nonzero()[0])
            raise InputError(
                f"state['position'][{row}] is {int(position[row])}, with {size} entries in state[{self.growing[0]!r}]; "
                "expected a State as this layer returned it"
            )

    def prepare(
        self,
        x: Tensor,
        state: State,
        past: Past,
        resets: Tensor | None,
        lengths: Tensor | None,
        given: Mapping[str, Tensor],
    ) -> Call:
        """What an engine is given for x [B, T, D]."""
        position, last = cache.positions(state["position"], x.shape[1], resets, lengths)
        carried = {name: state[name] for name in self.start(x)}
        return Call(
            inputs=self.inputs(x, position, past, **given),
            state=carried,
            position=position,
            ends=torch.full_like(last, x.shape[1]) if lengths is None else lengths,
            last=last,
            whole=carried["keys"].shape[2] == 0 and resets is None,
        )

    def _start(self, reference: Tensor) -> dict[str, Tensor]:
        return self.start(reference)

    def _run(
        self,
        x: Tensor,
        state: State,
        resets: Tensor | None,
        lengths: Tensor | None,
        engine: str,
        given: Mapping[str, Tensor],
    ) -> tuple[Any, State]:
        if x.is_meta or state["position"].is_meta or is_fake(x):
            raise EngineRefused(
                f"{type(self).__name__} cannot run on tensors of device meta or without memory: its state has as many "
                "entries as its position says, which is a number"
            )
        if any(t is not None and is_mapped(t) for t in (resets, lengths, state["position"])):
            raise EngineRefused(
                f"{type(self).__name__} cannot run with resets, lengths or a state that torch.func.vmap maps over: its "
                "state has as many entries as they say; make what is mapped over rows of one batch"
            )
        name = engine
        if engine == "auto":
            name = _engine_for([x, *state.values(), *self.parameters()])
        if name not in OWN:
            if isinstance(name, str) and name in ENGINES:
                raise EngineRefused(f"engine {name!r} cannot run {type(self).__name__}: {self.refusals(x)[name]}")
            raise InputError(f"engine is {shown(engine)}; expected 'auto', {' or '.join(map(repr, OWN))}")
        self._check(state)
        note(name)
        return _run(self, x, state, resets, lengths, name, given)


@unseen
def _engine_for(tensors: list[Tensor]) -> str:
    """PyTorch's attention has no derivative in forward mode; what the reference is made of has."""
    return OWN[0] if hindrance(tensors) is None else "loop"


@unseen
def _run(
    layer: Attention,
    x: Tensor,
    state: State,
    resets: Tensor | None,
    lengths: Tensor | None,
    engine: str,
    given: Mapping[str, Tensor],
) -> tuple[Any, State]:
    past = Past(layer.windows, state, resets, lengths)
    call = layer.prepare(x, state, past, resets, lengths, given)
    y, after = layer.parallel(call) if engine == "parallel" else loop.run(layer, call)
    return layer.outputs(y.to(x.dtype), x), State(after | past.carry | {"position": call.last})
