"""The reference: a Python loop over time of `vmap(step)` over a growing state. All else must equal it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.func import vmap

from recurra.attention import cache
from recurra.attention.call import Call, Growing
from recurra.problem import cast, compute_dtype


def run(layer: Growing, call: Call) -> tuple[Tensor, dict[str, Tensor]]:
    """Every time step in turn, all sequences and lanes side by side: outputs [B, T, lanes, ...], new states."""
    dtype = compute_dtype(next(iter(call.inputs.values())).dtype)
    inputs = {name: cast(value, dtype) for name, value in call.inputs.items()}
    state, outputs = dict(call.state), []
    for t in range(call.position.shape[1] if len(call.position) else 0):
        position = call.position[:, t]
        present = _present(layer, state, position)
        now = {name: value[:, t] for name, value in inputs.items()}
        after, y = _step(layer, _begun(layer, state, present, position), present, now, dtype)
        outputs.append(y)
        valid = t < call.ends
        for name, new in after.items():
            old = torch.cat([torch.zeros_like(new[:, :, :1]), state[name]], 2) if name in layer.growing else state[name]
            state[name] = torch.where(_rows(valid, new), new, old)
    for name in layer.growing:
        stop = torch.full_like(call.last, state[name].shape[2])
        state[name] = cache.newest(state[name], stop, layer.kept(call.last))
    if not outputs:
        return _no_output(layer, call, inputs, dtype), state
    return torch.stack(outputs, 1), state


def _present(layer: Growing, state: dict[str, Tensor], position: Tensor) -> Tensor:
    """[B, S]: which entries there are."""
    size = state[layer.growing[0]].shape[2]
    return torch.arange(size, device=position.device) >= size - layer.kept(position)[:, None]


def _begun(layer: Growing, state: dict[str, Tensor], present: Tensor, position: Tensor) -> dict[str, Tensor]:
    """The state with zeros for entries that are not there, and, where a sequence starts, with the start state."""
    selected = {}
    for name, start in layer.start(next(iter(state.values()))).items():
        value = state[name]
        if name in layer.growing:
            selected[name] = torch.where(cache.spread(present, value.dim()), value, 0)
        else:
            selected[name] = torch.where(_rows(position == 0, value), start.to(value.dtype), value)
    return selected


def _step(
    layer: Growing,
    state: dict[str, Tensor],
    present: Tensor,
    inputs: dict[str, Tensor],
    dtype: torch.dtype,
) -> tuple[dict[str, Tensor], Tensor]:
    """One time step of all sequences and lanes, computed in `dtype`; the states keep theirs."""

    def one_lane(states: tuple[Tensor, ...], present: Tensor, now: dict[str, Tensor]) -> Any:
        return layer.step(*states, present=present, **now)

    step = vmap(vmap(one_lane, in_dims=(0, None, 0)))
    after, y = step(tuple(cast(value, dtype) for value in state.values()), present, inputs)
    return {name: new.to(state[name].dtype) for name, new in zip(state, after, strict=True)}, y


def _no_output(layer: Growing, call: Call, inputs: dict[str, Tensor], dtype: torch.dtype) -> Tensor:
    """Without time steps or sequences: an empty output of the right shape, by one step of one sequence of zeros."""
    state = {name: value.new_zeros(1, *value.shape[1:]) for name, value in call.state.items()}
    now = {name: value.new_zeros(1, *value.shape[2:]) for name, value in inputs.items()}
    present = torch.ones(1, state[layer.growing[0]].shape[2], dtype=torch.bool, device=call.position.device)
    y = _step(layer, state, present, now, dtype)[1]
    return y.new_zeros(*call.position.shape, *y.shape[1:])


def _rows(rows: Tensor, like: Tensor) -> Tensor:
    return rows.view(-1, *[1] * (like.dim() - 1))
