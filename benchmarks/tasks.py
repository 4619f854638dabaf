"""Models of tasks: a new row, all origins in one pass, sequences of unequal lengths."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pack_sequence

import recurra
from benchmarks.floors import Product, floor
from benchmarks.measure import Row, Work, compare, measured, timed
from recurra.data.reading import Packed
from recurra.data.sequences import Field, Sequences
from recurra.tasks import rowwise, walk
from recurra.tasks.passing import Pass

TOPIC = "Tasks"
ROWS = 500
"""New rows in one run; times are of one."""
LENGTHS = ((7, 29), (29, 361))
"""Of JapaneseVowels, and of PickupGestureWiimoteZ."""


def rows(small: bool) -> Iterator[Row]:
    """All rows of this file, on one thread: one that waits for another counts as time of the processor too."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield from _rows(small)
    finally:
        torch.set_num_threads(threads)


def _rows(small: bool) -> Iterator[Row]:
    forecaster = fitted(100)
    short, behind = stream(forecaster), stream(after(forecaster, 10_000 if small else 1_000_000))
    short()
    pace = 1e3 * min(timed(short, time.process_time) for _ in range(7)) / ROWS
    yield measured(TOPIC, "a new row by stream(), Python included", pace, "microseconds", "<= 150")
    label, parts = f"{ROWS} new rows behind 100", "its parts called one by one"
    yield compare(TOPIC, label, short, parts, _plain(forecaster), ">= 3", 7, clock=time.process_time)
    label = f"{ROWS} new rows behind 1,000,000"
    yield compare(TOPIC, label, behind, "behind 100", short, "<= 1.1", 15, clock=time.process_time)
    yield _origins(forecaster, small)
    for shortest, longest in LENGTHS:
        yield from _unequal(shortest, longest)


def days(count: int) -> dict[str, Any]:
    """A table of so many hours with a week in them."""
    t = np.arange(count)
    open_ = (t % 7 != 6).astype(float)
    return {"ds": np.datetime64("1900-01-01T00") + t * np.timedelta64(1, "h"), "y": open_ + np.sin(t), "open": open_}


def fitted(count: int) -> recurra.Forecaster:
    """A forecaster that stands at the end of so many of them, and has learned next to nothing."""
    return recurra.Forecaster("gru*2", horizon=30, known=["open"], steps=2).fit(days(count))


def after(forecaster: recurra.Forecaster, count: int) -> recurra.Forecaster:
    """The same at the end of so many."""
    return forecaster._another()._stand(forecaster._like(days(count)))


def stream(forecaster: recurra.Forecaster) -> Work:
    """Some new rows, one after another."""
    stream, at = forecaster.stream(), [float(forecaster._ends[0])]

    def run() -> None:
        for _ in range(ROWS):
            at[0] += 3600
            stream.update({"ds": np.datetime64(int(at[0]), "s"), "y": 0.5, "open": 1.0})

    return run


def _plain(forecaster: recurra.Forecaster) -> Work:
    """The same without a plan: its parts are called as modules, each by its own kernels."""
    run = stream(forecaster)

    def without() -> None:
        own, rowwise.step_plan = rowwise.step_plan, lambda *_: None
        try:
            run()
        finally:
            rowwise.step_plan = own

    return without


def _origins(forecaster: recurra.Forecaster, small: bool) -> Row:
    """All daily origins of two years, read once; and from windows of a year, each read from its beginning."""
    origins, window = (73 if small else 730), 365
    sequences = forecaster._like(days(window + origins + 30))
    ends = window - 1 + torch.arange(origins)

    def refed() -> None:
        flat = (ends[:, None] + torch.arange(1 - window, 1)).flatten()
        values = {name: value[flat] for name, value in sequences.values.items()}
        windows = Sequences(sequences.fields.values(), values, torch.arange(origins + 1) * window)
        Pass(forecaster.model_, windows).run()

    return compare(
        TOPIC, f"forecasts from {origins} origins", lambda: walk.forecasts(forecaster.model_, sequences, ends),
        "windows of 365 read from their beginning by the same model", refed, ">= 10", 5,
    )  # fmt: skip


def _unequal(shortest: int, longest: int) -> Iterator[Row]:
    """32 sequences of such lengths, a training step of an LSTM: one behind the other with resets, and as PyTorch
    packs them; and beside what its products alone take."""
    torch.manual_seed(0)
    lengths = torch.randint(shortest, longest + 1, (32,))
    lengths[:2] = torch.tensor([shortest, longest])
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    flat = torch.randn(int(lengths.sum()), 128)
    numbers = Sequences([Field("x", "number", "past", width=(128,))], {"x": flat.double()}, offsets)
    batch = next(iter(Packed(numbers, 32, longest)))
    layer, theirs = recurra.layer("lstm", 128), torch.nn.LSTM(128, 128, batch_first=True)
    packed = pack_sequence([part.requires_grad_() for part in flat.split(lengths.tolist())], enforce_sorted=False)
    x = batch.columns["x"].nan_to_num().requires_grad_()

    def ours() -> None:
        y, _ = layer(x, resets=batch.resets, lengths=batch.lengths)
        y.sum().backward()

    def peer() -> None:
        y, _ = theirs(packed)
        y.data.sum().backward(retain_graph=True)

    label = f"LSTM, 32 sequences of {shortest} to {longest} steps, width 128, training step"
    row = compare(TOPIC, label, ours, "torch.nn.LSTM on a PackedSequence", peer, ">= 5", 9, clock=time.process_time)
    yield row
    steps = int(lengths.sum())
    yield floor(row, ours, [Product(steps, 128, 512), Product(len(x), 128, 512, steps // len(x))])
