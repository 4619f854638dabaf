"""Calls to hold a law to: inputs drawn at random, and the results of a call with all its gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from recurra.contract import Layer
from recurra.state import State

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
        layer = self.layer.to(dtype)
        state = None
        if self.state is not None:
            like = layer.initial_state(1)
            state = State({name: value.to(like[name].dtype) for name, value in self.state.items()})
        return replace(self, layer=layer, x=self.x.to(dtype), state=state)


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


def gradients(case: Case, engine: str) -> dict[str, Tensor]:
    """Every output and every gradient of a call, by name. The loss weighs all outputs by fixed random numbers."""
    x = case.x.detach().clone().requires_grad_()
    state = None if case.state is None else case.state.map(lambda value: value.detach().clone())
    moving = {name: value for name, value in (state or {}).items() if value.is_floating_point() or value.is_complex()}
    for value in moving.values():
        value.requires_grad_()
    y, after = replace(case, x=x, state=state).run(engine)
    results = {"y": y} | {f"state.{name}": value for name, value in after.items()}
    generator = torch.Generator().manual_seed(7)
    loss = torch.zeros((), dtype=torch.float64)
    for value in results.values():
        for part in (value.real, value.imag) if value.is_complex() else (value,):
            weight = torch.randn(part.shape, generator=generator, dtype=torch.float64)
            loss = loss + (torch.where(part.isfinite(), part.double(), 0) * weight).sum()
    wanted = {"x": x} | {f"parameter {n}": p for n, p in case.layer.named_parameters() if p.requires_grad}
    wanted |= {f"carried {name}": value for name, value in moving.items()}
    if loss.requires_grad:
        grads = torch.autograd.grad(loss, list(wanted.values()), allow_unused=True)
        for (name, value), grad in zip(wanted.items(), grads, strict=True):
            results[f"gradient of {name}"] = torch.zeros_like(value) if grad is None else grad
    return {name: value.detach() for name, value in results.items()}
