"""Measure this machine for the cost model: some small runs whose times give the rates."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from recurra.engines import compiled, rates
from recurra.engines.affine import FreeStep
from recurra.engines.kernels import threads
from recurra.engines.kernels.call import vector_width
from recurra.engines.rates import Rates
from recurra.problem import Lane, Problem, StepInput


def calibrate() -> Rates:
    """Measure, which takes some seconds, and keep the result for later processes on this machine."""
    lanes = 16 * 8 * threads.count()
    each, call = _slope(_heavy, lanes, 1024, 8192)
    plan = compiled.plan_of(_problem(_heavy, 1, 1, lanes))
    counted = plan.forward.instructions * lanes / vector_width(plan) / threads.count()
    step, _ = _slope(_light, 8, 8192, 131072)
    batch, steps, lanes = threads.count(), 8192, 512
    stream = _best(_runner(_problem(_light, batch, steps, lanes)))
    small, many, signal = torch.rand(8), torch.rand(1 << 22), torch.rand(64, 1 << 15)
    found = Rates(
        instruction=each / counted,
        step=step,
        byte=stream / (batch * steps * lanes * 8),
        call=call,
        operation=_best(lambda: small + 1),
        element=_best(lambda: torch.add(many, many)) / many.numel(),
        transform=_best(lambda: torch.fft.rfft(signal)) / (signal.numel() * 15),
    )
    rates.keep(found)
    return found


def _light(states: tuple[Tensor, ...], inputs: Mapping[str, Tensor]) -> tuple[tuple[Tensor, ...], Tensor]:
    h = 0.5 * states[0] + inputs["x"]
    return (h,), h


def _heavy(states: tuple[Tensor, ...], inputs: Mapping[str, Tensor]) -> tuple[tuple[Tensor, ...], Tensor]:
    z = torch.sigmoid(inputs["x"])
    h = z * states[0] + torch.tanh(inputs["x"]) * torch.exp(-z)
    return (h,), h


def _problem(step: Callable, batch: int, steps: int, lanes: int) -> Problem:
    return Problem(
        FreeStep(step.__name__, step), {"x": StepInput(torch.rand(batch, steps, lanes))},
        {"h": torch.zeros(batch, lanes)}, {"h": torch.zeros(lanes)}, None, None,
        batch, steps, lanes, Lane.CHANNEL, torch.float32, torch.device("cpu"),
    )  # fmt: skip


def _slope(step: Callable, lanes: int, short: int, long: int) -> tuple[float, float]:
    """Seconds per time step on one sequence, and of a call that does next to nothing."""
    few, many = (_best(_runner(_problem(step, 1, steps, lanes))) for steps in (short, long))
    each = max(1e-12, (many - few) / (long - short))
    return each, max(1e-9, few - short * each)


def _runner(problem: Problem) -> Callable[[], object]:
    return lambda: compiled.run(problem)


def _best(run: Callable[[], object], times: int = 15) -> float:
    """Seconds of the fastest of some runs."""
    run()
    best = float("inf")
    for _ in range(times):
        begin = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - begin)
    return best
