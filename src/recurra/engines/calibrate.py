"""Measure this machine for the cost model: some small runs whose times give the rates."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional

from recurra.engines import compiled, products, rates
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
    product, by_onednn = (_forward(way, 1024, 256, 256) for way in WAYS.values())
    found = Rates(
        instruction=each / counted,
        step=step,
        byte=stream / (batch * steps * lanes * 8),
        call=call,
        operation=_best(lambda: small + 1),
        element=_best(lambda: torch.add(many, many)) / many.numel(),
        transform=_best(lambda: torch.fft.rfft(signal)) / (signal.numel() * 15),
        product=product,
        product_onednn=by_onednn,
    )
    rates.keep(found)
    return found


WAYS: dict[str, Callable[..., Tensor]] = {"PyTorch": functional.linear, "oneDNN": products.by_onednn}
"""Of a product, by what runs it."""
SHAPES = ((8192, 128, 512), (1024, 256, 1024), (8192, 512, 128), (32768, 512, 512))
"""Rows, inputs and outputs of the linear maps in the table of products."""


def products_table() -> list[dict[str, float | None]]:
    """Billions of float operations a second of each way for some linear maps, forward and for both gradients, in
    float32, and of PyTorch's own forward in bfloat16; None where oneDNN is not there. Takes some seconds."""
    return [{"rows": rows, "inputs": i, "outputs": o} | _reached(rows, i, o) for rows, i, o in SHAPES]


def _reached(rows: int, inputs: int, outputs: int) -> dict[str, float | None]:
    x, weight, grad = torch.rand(rows, inputs), torch.rand(outputs, inputs), torch.rand(rows, outputs)
    low, low_weight = x.bfloat16(), weight.bfloat16()
    runs: dict[str, Callable[[], Tensor]] = {
        "PyTorch": lambda: functional.linear(x, weight),
        "oneDNN, forward": lambda: products.by_onednn(x, weight),
        "oneDNN, gradient of x": lambda: products.by_onednn(grad, weight.t()),
        "ours, gradient of the weight": lambda: products.compiled_outer(grad, x),
        "bfloat16": lambda: functional.linear(low, low_weight),
    }
    there, work = products.has_onednn(), 2e-9 * rows * inputs * outputs
    with torch.no_grad():
        return {name: work / _best(run, 5) if there or "oneDNN" not in name else None for name, run in runs.items()}


def _forward(way: Callable[..., Tensor], rows: int, inputs: int, outputs: int) -> float:
    """Seconds of a multiply-add of a linear map; where oneDNN is not there, of PyTorch's own."""
    x, weight = torch.rand(rows, inputs), torch.rand(outputs, inputs)
    way = way if products.has_onednn() else functional.linear
    with torch.no_grad():
        return _best(lambda: way(x, weight)) / (rows * inputs * outputs)


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


def clock() -> float:
    """Seconds: where there is one thread, of its own work, which others on the machine disturb least."""
    return time.thread_time() if threads.count() == 1 else time.perf_counter()


def _best(run: Callable[[], object], times: int = 15) -> float:
    """Seconds of the fastest of some runs."""
    run()
    best = float("inf")
    for _ in range(times):
        begin = clock()
        run()
        best = min(best, clock() - begin)
    return best
