"""From dh/dt = A h + B u with a diagonal A to h_t = A' h_{t-1} + B' u_t, by steps of size dt.

Source: Efficiently Modeling Long Sequences with Structured State Spaces, Gu, Goel, Ré, 2021, arXiv:2111.00396.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from recurra import options
from recurra.errors import InputError
from recurra.problem import StepInput, cast, compute_dtype, shared

Rule = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def zoh(A: Tensor, dt: Tensor) -> tuple[Tensor, Tensor]:
    """u stands still during a step (zero-order hold): A' = exp(dt A),  B' / B = (exp(dt A) - 1) / A."""
    return torch.exp(dt * A), torch.expm1(dt * A) / A


def bilinear(A: Tensor, dt: Tensor) -> tuple[Tensor, Tensor]:
    """The trapezoidal rule: A' = (1 + dt A / 2) / (1 - dt A / 2),  B' / B = dt / (1 - dt A / 2)."""
    below = 1 - dt * A / 2
    return (1 + dt * A / 2) / below, dt / below


def discretise(
    rule: Rule, A_log: Tensor, A_imag: Tensor, dt_log: Tensor, elapsed: Tensor | None = None
) -> tuple[StepInput, StepInput]:
    """A' and B' / B for A = -exp(A_log) + i A_imag, in the left half-plane, and dt = exp(dt_log), as a step reads them.

    They are the same at all time steps, but where time has `elapsed` [B, T] between them: that multiplies dt.

    Computed in double precision: dt A turns by up to hundreds of radians, of which shorter types keep few digits.
    """
    decay, frequency, dt = torch.exp(A_log.double()), A_imag.double(), torch.exp(dt_log.double())
    if elapsed is not None:
        dt = elapsed.double()[(..., *[None] * dt.dim())] * dt
    found = rule(torch.complex(-decay, frequency), dt)
    step, gain = (StepInput(cast(part, dt_log.dtype), per_time=elapsed is not None) for part in found)
    return step, gain


def lengthened(x: Tensor, elapsed: Tensor | None) -> dict[str, Tensor | StepInput]:
    """What a step reads of the time `elapsed` [B, T] that lengthens it, in the type of x: nothing if nobody says it."""
    return {} if elapsed is None else {"elapsed": shared(elapsed.to(x.dtype))}


def log_steps(count: int, dt_min: float, dt_max: float) -> Tensor:
    """Logarithms [count] of step sizes, drawn uniformly between those of `dt_min` and `dt_max`."""
    options.number("dt_min", dt_min, float("-inf"))
    options.number("dt_max", dt_max, float("-inf"))
    if not 0 < dt_min <= dt_max:
        raise InputError(f"dt_min, dt_max are {dt_min}, {dt_max}; expected 0 < dt_min <= dt_max")
    return math.log(dt_min) + torch.rand(count) * math.log(dt_max / dt_min)


def softplus_steps(count: int, dt_min: float = 0.001, dt_max: float = 0.1) -> Tensor:
    """Biases [count] whose softplus is a step size drawn as by `log_steps`."""
    dt = torch.exp(log_steps(count, dt_min, dt_max))
    return dt + torch.log(-torch.expm1(-dt))


def as_complex(pairs: Tensor) -> Tensor:
    """Parameters [..., 2], real and imaginary parts, as complex numbers [...], in single precision at least."""
    # Made anew: a view would ask for pairs at even places in memory, which parts of one flat vector need not have.
    return torch.complex(*cast(pairs, compute_dtype(pairs.dtype)).unbind(-1))
