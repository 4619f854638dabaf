"""Calls to hold a law to: inputs drawn at random, and the results of a call with all its gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from recurra.contract import Layer
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

    def run(self, engine: str) -> tuple[Tensor, State]:
        """The call."""
        return self.layer(self.x, self.state, resets=self.resets, lengths=self.lengths, engine=engine)

    def to(self, dtype: torch.dtype) -> Case:
        """The same call in another dtype; the layer is converted in place."""
        layer, x, state = self.layer.to(dtype), self.x.to(dtype), None
        if self.state is not None:
            like = layer.initial_state(1, x)
            state = State({name: value.to(like[name].dtype) for name, value in self.state.items()})
        return replace(self, layer=layer, x=x, state=state)

    def part(self, steps: slice, state: State | None) -> Case:
        """Some time steps of it, from another state."""
        resets = None if self.resets is None else self.resets[:, steps]
        return replace(self, x=self.x[:, steps], state=state, resets=resets)

    def row(self, row: int) -> Case:
        """One sequence of it, alone."""
        state = None if self.state is None else self.state.rows(row)
        resets, lengths = (None if t is None else t[row : row + 1] for t in (self.resets, self.lengths))
        return Case(self.layer, self.x[row : row + 1], state, resets, lengths)


def draw(
    make: Make,
    dtype: torch.dtype,
    batch: int = 3,
    time: int = 9,
    *,
    state: bool = False,
    resets: bool = False,
    lengths: bool = False,
) -> Case:
    """A random case. With `state` it continues from a state that some random inputs led to."""
    layer = make().to(dtype)
    x = torch.randn(batch, time, layer.width, dtype=dtype)
    carried = None
    if state:
        with torch.no_grad():
            carried = layer(torch.randn(batch, 3, layer.width, dtype=dtype), engine="loop")[1]
    return Case(
        layer,
        x,
        carried,
        torch.rand(batch, time) < 0.3 if resets else None,
        torch.randint(0, time + 1, (batch,)) if lengths else None,
    )


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
    y, after = replace(case, x=x, state=state).run(engine)
    results = {"y": y} | {f"state.{name}": value for name, value in after.items()}
    loss = weighted(results)
    wanted = {"x": x} | {f"parameter {n}": p for n, p in case.layer.named_parameters() if p.requires_grad}
    wanted |= {f"carried {name}": value for name, value in moving.items()}
    if loss.requires_grad:
        grads = torch.autograd.grad(loss, list(wanted.values()), allow_unused=True)
        for (name, value), grad in zip(wanted.items(), grads, strict=True):
            results[f"gradient of {name}"] = torch.zeros_like(value) if grad is None else grad
    return {name: value.detach() for name, value in results.items()}


def compare(case: Case, engine: str) -> None:
    """Hold one call on `engine` to the reference, both run in the case's dtype."""
    expected, got = gradients(case, "loop"), gradients(case, engine)
    for name, value in expected.items():
        assert_close(f"{name} on engine {engine!r}", got[name], value, case.x.dtype)


def states_close(case: Case, what: str, got: State, expected: State) -> None:
    """Hold one state of a case's layer to another."""
    got, expected = case.layer.trim(got), case.layer.trim(expected)
    for name, value in expected.items():
        assert_close(f"state {name!r}, {what}", got[name], value, case.x.dtype)
