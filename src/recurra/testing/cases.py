"""Calls to hold a law to: inputs drawn at random, and the results of a call with all its gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from recurra.contract import Layer
from recurra.problem import cast
from recurra.state import State
from recurra.testing.tolerances import assert_close

Make = Callable[[], Layer]
"""Builds a fresh layer; its parameters are drawn anew each time."""


@dataclass(frozen=True)
class Case:
    """One call of a layer."""

    layer: Layer
    x: Tensor
    state: State | None = None
    resets: Tensor | None = None
    lengths: Tensor | None = None
    beside: Mapping[str, Tensor] = field(default_factory=dict)
    """What the layer takes beside x."""

    def run(self, engine: str) -> tuple[Tensor, State]:
        """The call."""
        return self.tell(engine)[:2]

    def tell(self, engine: str) -> tuple[Tensor, State, dict[str, Tensor]]:
        """The call, with what the layer gives beside y."""
        given = {"resets": self.resets, "lengths": self.lengths}
        return self.layer(self.x, self.state, engine=engine, aux=True, **given, **self.beside)

    def beside_at(self, t: int) -> dict[str, Any]:
        """What the layer takes beside x at one time step."""
        return {name: value[:, t] for name, value in self.beside.items()}

    def to(self, dtype: torch.dtype) -> Case:
        """The same call in another dtype; the layer is converted in place."""
        layer, x, state = self.layer.to(dtype), self.x.to(dtype), None
        if self.state is not None:
            like = layer.initial_state(1, x)
            state = State({name: value.to(like[name].dtype) for name, value in self.state.items()})
        beside = {name: cast(value, dtype) for name, value in self.beside.items()}
        return replace(self, layer=layer, x=x, state=state, beside=beside)

    def part(self, steps: slice, state: State | None) -> Case:
        """Some time steps of it, from another state."""
        resets = None if self.resets is None else self.resets[:, steps]
        beside = {name: value[:, steps] for name, value in self.beside.items()}
        return replace(self, x=self.x[:, steps], state=state, resets=resets, beside=beside)

    def row(self, row: int) -> Case:
        """One sequence of it, alone."""
        state = None if self.state is None else self.state.rows(row)
        resets, lengths = (None if t is None else t[row : row + 1] for t in (self.resets, self.lengths))
        beside = {name: value[row : row + 1] for name, value in self.beside.items()}
        return Case(self.layer, self.x[row : row + 1], state, resets, lengths, beside)


def draw(
    make: Make,
    dtype: torch.dtype,
    batch: int = 3,
    time: int = 9,
    *,
    state: bool = False,
    resets: bool = False,
    lengths: bool = False,
    beside: bool = False,
) -> Case:
    """A random case. With `state` it continues from a state that some random inputs led to; with `beside` it has all
    that the layer takes beside x, not only what it needs."""
    layer = make().to(dtype)
    x = torch.randn(batch, time, layer.width, dtype=dtype)
    carried = None
    if state:
        with torch.no_grad():
            before = torch.randn(batch, 3, layer.width, dtype=dtype)
            carried = layer(before, engine="loop", **_beside(layer, batch, 3, beside))[1]
    return Case(
        layer,
        x,
        carried,
        torch.rand(batch, time) < 0.3 if resets else None,
        torch.randint(0, time + 1, (batch,)) if lengths else None,
        _beside(layer, batch, time, beside),
    )


def _beside(layer: Layer, batch: int, time: int, all_of_it: bool) -> dict[str, Tensor]:
    wanted = [name for name, needed in layer.beside.items() if needed or all_of_it]
    example = layer.example(batch, time) if wanted else {}
    return {name: example[name] for name in wanted}


def weighted(results: dict[str, Tensor]) -> Tensor:
    """One number that all results have a part in, each entry with a weight of its own; what is not finite is left
    out."""
    generator = torch.Generator().manual_seed(7)
    total = torch.zeros((), dtype=torch.float64)
    for value in results.values():
        for part in (value.real, value.imag) if value.is_complex() else (value,):
            weight = torch.randn(part.shape, generator=generator, dtype=torch.float64)
            total = total + (torch.where(part.isfinite(), part.double(), 0) * weight).sum()
    return total


def gradients(case: Case, engine: str) -> dict[str, Tensor]:
    """Every output and every gradient of a call, by name. The loss weighs all outputs by fixed random numbers."""
    x = case.x.detach().clone().requires_grad_()
    state = None if case.state is None else case.state.map(lambda value: value.detach().clone())
    moving = {name: value for name, value in (state or {}).items() if value.is_floating_point() or value.is_complex()}
    for value in moving.values():
        value.requires_grad_()
    beside = {name: value.detach().clone() for name, value in case.beside.items()}
    sloping = {name: value.requires_grad_() for name, value in beside.items() if value.is_floating_point()}
    y, after, more = replace(case, x=x, state=state, beside=beside).tell(engine)
    results = {"y": y} | {f"state.{name}": value for name, value in after.items()} | more
    loss = weighted(results)
    wanted = {"x": x} | sloping | {f"parameter {n}": p for n, p in case.layer.named_parameters() if p.requires_grad}
    wanted |= {f"carried {name}": value for name, value in moving.items()}
    if loss.requires_grad:
        grads = torch.autograd.grad(loss, list(wanted.values()), allow_unused=True)
        for (name, value), grad in zip(wanted.items(), grads, strict=True):
            results[f"gradient of {name}"] = torch.zeros_like(value) if grad is None else grad
    return {name: value.detach() for name, value in results.items()}


def compare(case: Case, engine: str) -> None:
    """Hold one call on `engine` to the reference, both run in the case's dtype."""
    expected, got = gradients(case, "loop"), gradients(case, engine)
    moved: dict[str, Tensor] | None = None
    for name, value in expected.items():
        what = f"{name} on engine {engine!r}"
        try:
            assert_close(what, got[name], value, case.x.dtype)
        except AssertionError:
            # What the reference itself makes of a few roundings more, near a quotient's pole say, engines may.
            moved = moved or gradients(replace(case, x=rounded(case.x), state=_rounded(case.state)), "loop")
            off = (moved[name] - value).abs().nan_to_num(0, 0, 0).max()
            assert_close(what, got[name], value, case.x.dtype, 100 * off)


def rounded(t: Tensor) -> Tensor:
    """The same with a few roundings more, up or down, if it is of numbers that are rounded."""
    if not (t.is_floating_point() or t.is_complex()):
        return t
    return t + 4 * torch.finfo(t.dtype).eps * t * (2 * torch.randint(2, t.shape, device=t.device) - 1)


def _rounded(state: State | None) -> State | None:
    return None if state is None else state.map(rounded)


def states_close(case: Case, what: str, got: State, expected: State) -> None:
    """Hold one state of a case's layer to another."""
    got, expected = case.layer.trim(got), case.layer.trim(expected)
    for name, value in expected.items():
        assert_close(f"state {name!r}, {what}", got[name], value, case.x.dtype)
