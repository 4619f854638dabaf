"""Short causal convolutions, which many layers prepare their inputs with, as a recurrence: its state is the window."""

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
        weight: [channels, steps + 1], the last for the current value.
        bias: [channels].
        silu: whether the result goes through SiLU.

    Returns:
        the result [B, T, channels] and the window after the last time step of each row.
    """
    inputs = {"x": StepInput(signal), "weight": constant(weight)}
    if bias is not None:
        inputs["bias"] = constant(bias)
    batch, time, channels = signal.shape
    real = compute_dtype(signal.dtype)
    problem = Problem(
        step=FreeStep("convolve, silu", _step_silu) if silu else FreeStep("convolve", _step),
        inputs=inputs,
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
    if compiled.refuses(problem):
        return None
    rollout = compiled.run(problem)
    return rollout.y, rollout.state["h"].transpose(1, 2).to(window.dtype)


def _step(states: tuple[Tensor, ...], inputs: Mapping[str, Tensor]) -> tuple[tuple[Tensor, ...], Tensor]:
    (h,), x, weight = states, inputs["x"], inputs["weight"]
    y = (weight[:-1] * h).sum() + weight[-1] * x
    return (torch.cat([h[1:], x[None]]),), y + inputs["bias"] if "bias" in inputs else y


def _step_silu(states: tuple[Tensor, ...], inputs: Mapping[str, Tensor]) -> tuple[tuple[Tensor, ...], Tensor]:
    window, y = _step(states, inputs)
    return window, torch.nn.functional.silu(y)
