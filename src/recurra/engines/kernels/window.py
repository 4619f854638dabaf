"""Short causal convolutions and mixes with the time step before, which many layers prepare their inputs with, as
recurrences: their state is the window."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from recurra.engines import compiled
from recurra.engines.affine import FreeStep
from recurra.engines.unseen import unseen
from recurra.problem import Lane, Problem, StepInput, compute_dtype, constant


@unseen
def convolve(
    window: Tensor,
    signal: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    resets: Tensor | None,
    lengths: Tensor | None,
    silu: bool,
) -> tuple[Tensor, Tensor] | None:
    """Depthwise causal convolution by the compiled loop, or None where it cannot run.

    Args:
        window: [B, steps, channels], the values before the first time step.
        signal: [B, T, channels].
        weight: [channels, steps / dilation + 1], the last for the current value.
        bias: [channels].
        silu: whether the result goes through SiLU.

    Returns:
        the result [B, T, channels] and the window after the last time step of each row.
    """
    step = FreeStep("convolve, silu", _convolve_silu) if silu else FreeStep("convolve", _convolve)
    constants = {"weight": weight} if bias is None else {"weight": weight, "bias": bias}
    problem = _problem(step, window, signal, constants, resets, lengths)
    if compiled.refuses(problem):
        return None
    rollout = compiled.run(problem)
    return rollout.y, rollout.state["h"].transpose(1, 2).to(window.dtype)


@unseen
def mix(
    window: Tensor, signal: Tensor, shares: Tensor, resets: Tensor | None, lengths: Tensor | None
) -> tuple[list[Tensor], Tensor] | None:
    """Mixes of every value with the one before, by the compiled loop, or None where it cannot run.

    Args:
        window: [B, 1, channels], the value before the first time step.
        signal: [B, T, channels].
        shares: [mixes, channels], of the value before.

    Returns:
        the mixes, each [B, T, channels], and the window after the last time step of each row.
    """
    problem = _problem(FreeStep("mix", _mix), window, signal, {"shares": shares.t()}, resets, lengths)
    if compiled.refuses(problem):
        return None
    outputs, state = compiled.run_all(problem)
    return list(outputs.values()), state["h"].transpose(1, 2).to(window.dtype)


def _problem(
    step: FreeStep,
    window: Tensor,
    signal: Tensor,
    constants: Mapping[str, Tensor],
    resets: Tensor | None,
    lengths: Tensor | None,
) -> Problem:
    """Channels side by side, with the window as their state."""
    batch, time, channels = signal.shape
    real = compute_dtype(signal.dtype)
    return Problem(
        step=step,
        inputs={"x": StepInput(signal)} | {name: constant(t) for name, t in constants.items()},
        state={"h": window.transpose(1, 2).to(real)},
        start={"h": window.new_zeros(channels, window.shape[1], dtype=real)},
        resets=resets,
        lengths=lengths,
        batch=batch,
        time=time,
        lanes=channels,
        lane=Lane.CHANNEL,
        dtype=signal.dtype,
        device=signal.device,
    )


def _convolve(states: tuple[Tensor, ...], inputs: Mapping[str, Tensor]) -> tuple[tuple[Tensor, ...], Tensor]:
    (h,), x, weight = states, inputs["x"], inputs["weight"]
    dilation = len(h) // (len(weight) - 1)
    y = (weight[:-1] * (h if dilation == 1 else h[::dilation])).sum() + weight[-1] * x
    return (torch.cat([h[1:], x[None]]),), y + inputs["bias"] if "bias" in inputs else y


def _convolve_silu(states: tuple[Tensor, ...], inputs: Mapping[str, Tensor]) -> tuple[tuple[Tensor, ...], Tensor]:
    window, y = _convolve(states, inputs)
    return window, torch.nn.functional.silu(y)


def _mix(states: tuple[Tensor, ...], inputs: Mapping[str, Tensor]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    (h,), x = states, inputs["x"]
    return (x[None],), tuple(x + share * (h[0] - x) for share in inputs["shares"].unbind())
