"""`python -m benchmarks.default_job`: the default job beside others, the same time each.

Ours trains first, once for each seed; then, for as many seconds each, ours in bfloat16, a Transformer of our blocks,
and an embedding, a one-layer `torch.nn.LSTM` and a head of several widths: with the same windows of the same text, the
same optimiser, warm-up, and a cosine over the time. Results go to benchmarks/default_job.json and docs/performance.md.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks import report
from recurra.data.text import Windows, default_text, split
from recurra.files import write_atomically
from recurra.memory import keep_freed_memory
from recurra.training.config import TrainConfig
from recurra.training.muon import Muon
from recurra.training.trainer import train

PROBE = 60
"""Steps by which the pace of a run is found."""
TRANSFORMER = {"pattern": "attention*4", "width": 128, "mlp": 256, "window": 256, "batch": 8, "learning_rate": 3e-3}
"""What differs from the default job: it reads one window at a time, so a longer one."""


class LSTMModel(nn.Module):
    """Bytes to scores of the next byte, [B, T] to [B, T, 256]."""

    def __init__(self, width: int, dropout: float):
        super().__init__()
        self.embedding = nn.Embedding(256, width)
        self.lstm = nn.LSTM(width, width, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, 256)

    def forward(self, tokens: Tensor, state: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Scores, and the state after the last byte."""
        y, state = self.lstm(self.embedding(tokens), state)
        return self.head(self.dropout(y)), state


def train_lstm(width: int, config: TrainConfig, seconds: float) -> float:
    """Held-out bits per byte after so many seconds of training."""
    torch.manual_seed(0)
    training, held_out = split(default_text())
    windows, model = Windows(training, config.batch, config.window), LSTMModel(width, config.dropout)
    optimiser = Muon(model, model.lstm, config.weight_decay)
    began, step, state = time.perf_counter(), 0, None
    while (done := (time.perf_counter() - began) / seconds) < 1:
        rate = config.learning_rate * min(1, (step + 1) / config.warmup) * (0.5 + 0.5 * math.cos(math.pi * done))
        for group in optimiser.param_groups:
            group["lr"] = rate
        window = windows.window(step)
        logits, state = model(window[:, :-1], None if windows.starts(step) else state)
        state = tuple(s.detach() for s in state)
        optimiser.zero_grad()
        nn.functional.cross_entropy(logits.flatten(0, 1), window[:, 1:].flatten()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        optimiser.step()
        step += 1
    return _evaluate(model.eval(), held_out)


@torch.no_grad()
def _evaluate(model: LSTMModel, text: bytes) -> float:
    tokens = torch.tensor(list(text))
    logits, _ = model(tokens[None, :-1], None)
    return nn.functional.cross_entropy(logits[0], tokens[1:]).item() / math.log(2)


def paced(config: TrainConfig, seconds: float) -> TrainConfig:
    """As many steps as fit into so many seconds, found by a few of them, so that the learning rate gets to its end."""
    with tempfile.TemporaryDirectory() as folder:
        probe = train(replace(config, steps=PROBE), default_text(), Path(folder) / "run")
    return replace(config, steps=max(PROBE, int(PROBE * seconds / probe["training_seconds"])))


def trained(config: TrainConfig) -> dict[str, float]:
    """Bits per byte and seconds of a run of ours."""
    with tempfile.TemporaryDirectory() as folder:
        found = train(config, default_text(), Path(folder) / "run")
    row = {"bits_per_byte": found["bits_per_byte"], "seconds": found["training_seconds"]}
    print(f"{config.pattern}, {config.precision}, seed {config.seed}: {row}", flush=True)
    return row | {"parameters": found["parameters"]}


def main() -> None:
    """Train all of them, one after another."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.default_job", description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--widths", type=int, nargs="+", default=[192, 256, 384])
    parser.add_argument("--rates", type=float, nargs="+", default=[4e-3, 6e-3])
    options = parser.parse_args()
    keep_freed_memory()
    config = TrainConfig()
    ours = [trained(replace(config, seed=seed)) for seed in options.seeds]
    seconds = sum(row["seconds"] for row in ours) / len(ours)
    others = {
        "ours in bfloat16 (`--precision bf16`)": replace(config, precision="bf16"),
        f"a Transformer of our blocks (`--pattern {TRANSFORMER['pattern']}`)": replace(config, **TRANSFORMER),
    }
    found = {name: trained(paced(other, seconds)) for name, other in others.items()}
    for width in options.widths:
        for rate in options.rates:
            bits = train_lstm(width, replace(config, learning_rate=rate), seconds)
            found[f"torch.nn.LSTM, width {width}, rate {rate:g}"] = {"bits_per_byte": bits, "seconds": seconds}
            print(f"torch.nn.LSTM of width {width}, learning rate {rate:g}: {bits:.3f}", flush=True)
    results = {"threads": torch.get_num_threads(), "machine": report.machine(), "ours": ours, "others": found}
    write_atomically(report.DEFAULT_JOB, json.dumps(results, indent=1) + "\n")
    report.put(report.default_job(report.DEFAULT_JOB))


if __name__ == "__main__":
    main()
