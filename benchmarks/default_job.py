"""`python -m benchmarks.default_job`: the default job against a language model around `torch.nn.LSTM`, same time each.

Ours trains first; then, for as many seconds each, an embedding, a one-layer LSTM and a head of several widths, with the
same windows of the same text, AdamW, warm-up, and a cosine over the time. Results go to benchmarks/default_job.json.
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

from recurra.data.text import Windows, default_text, split
from recurra.files import write_atomically
from recurra.memory import keep_freed_memory
from recurra.training.config import TrainConfig
from recurra.training.trainer import train


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
    optimiser = torch.optim.AdamW(model.parameters(), weight_decay=config.weight_decay, betas=(0.9, 0.99))
    began, step, state = time.perf_counter(), 0, None
    while (done := (time.perf_counter() - began) / seconds) < 1:
        rate = config.learning_rate * min(1, (step + 1) / config.warmup) * (0.55 + 0.45 * math.cos(math.pi * done))
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


def main() -> None:
    """Train all of them, one after another."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.default_job", description=__doc__)
    parser.add_argument("--widths", type=int, nargs="+", default=[192, 256, 384])
    parser.add_argument("--rates", type=float, nargs="+", default=[4e-3])
    options = parser.parse_args()
    keep_freed_memory()
    config = TrainConfig()
    with tempfile.TemporaryDirectory() as folder:
        ours = train(config, default_text(), Path(folder) / "run")
    results = {"ours": ours["bits_per_byte"], "seconds": ours["training_seconds"], "torch.nn.LSTM": {}}
    print(f"ours: {ours['bits_per_byte']:.3f} bits per byte in {ours['training_seconds']:.0f} s", flush=True)
    for width in options.widths:
        for rate in options.rates:
            bits = train_lstm(width, replace(config, learning_rate=rate), ours["training_seconds"])
            results["torch.nn.LSTM"][f"width {width}, rate {rate:g}"] = bits
            print(f"torch.nn.LSTM of width {width}, learning rate {rate:g}: {bits:.3f}", flush=True)
    write_atomically("benchmarks/default_job.json", json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
