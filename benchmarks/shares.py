"""`python -m benchmarks.shares`: what a training step's time goes to: products of matrices, recurrences, all other
operations of PyTorch, most of them pointwise, the optimiser, Python. Writes shares.json, which docs/performance.md
shows."""

from __future__ import annotations

import json
from collections.abc import Callable
from time import perf_counter
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

import recurra
from benchmarks import report
from recurra.engines import products
from recurra.engines.kernels import run
from recurra.files import write_atomically
from recurra.memory import keep_freed_memory
from recurra.training.config import TrainConfig
from recurra.training.muon import Muon

STEPS = 10
PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "mkldnn::_linear_pointwise", "shares::product")
OPERATIONS = ("aten::", "mkldnn::")
MODELS: dict[str, tuple[dict[str, Any], int, int]] = {
    "the default job": (TrainConfig().model_config(), TrainConfig().batch, TrainConfig().window),
    "LSTM, 2 layers, width 256": ({"pattern": "lstm*2", "width": 256}, 16, 256),
    "Mamba-2, 2 layers, width 256": ({"pattern": "mamba2*2", "width": 256}, 1, 1024),
    "RWKV-7, 2 layers, width 256": ({"pattern": "rwkv7*2", "width": 256}, 1, 1024),
}
"""Arguments of the model, sequences, time steps."""


def marked(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A kernel of ours as the profiler can see it."""

    def call(*args: Any) -> Any:
        with record_function(name):
            return function(*args)

    return call


def shares(config: dict[str, Any], batch: int, time: int) -> dict[str, float]:
    """Shares of the time of some training steps of a language model; `milliseconds` is that of one."""
    model, tokens = recurra.LanguageModel(**config), torch.randint(0, 256, (batch, time))
    optimiser = Muon(model.train(), model.blocks, 0.1)

    def learn() -> None:
        model.zero_grad()
        logits, _ = model(tokens[:, :-1])
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).backward()

    def optimise() -> None:
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()

    for _ in range(3):
        learn()
        optimise()
    with profile(activities=[ProfilerActivity.CPU]) as seen, record_function("shares::all"):
        for _ in range(STEPS):
            learn()
    began = perf_counter()
    for _ in range(STEPS):  # apart, since its products are products too
        optimise()
    optimising = (perf_counter() - began) * 1e6
    found = {event.key: event for event in seen.key_averages()}
    whole = found["shares::all"].cpu_time_total + optimising
    own = {name: event.self_cpu_time_total for name, event in found.items()}
    product, recurrence = sum(own.get(name, 0) for name in PRODUCTS), own.get("shares::kernel", 0)
    pointwise = sum(time for name, time in own.items() if name.startswith(OPERATIONS) and name not in PRODUCTS)
    parts = {"products": product, "recurrences": recurrence, "pointwise": pointwise, "optimiser": optimising}
    parts["Python"] = max(0.0, whole - sum(parts.values()))
    return {name: part / whole for name, part in parts.items()} | {"milliseconds": whole / STEPS / 1e3}


def main() -> None:
    """Measure and write."""
    keep_freed_memory()
    products.compiled_outer = marked("shares::product", products.compiled_outer)
    run.launch = marked("shares::kernel", run.launch)
    rows = {name: shares(*of) for name, of in MODELS.items()}
    found = {"threads": torch.get_num_threads(), "machine": report.machine(), "rows": rows}
    write_atomically(report.SHARES, json.dumps(found, indent=1) + "\n")
    report.put(report.shares(report.SHARES))


if __name__ == "__main__":
    main()
