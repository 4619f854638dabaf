"""Whole models read from transformers' checkpoints, made at random here: the same weights in both, ours and theirs."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch

import recurra
from benchmarks import peers
from benchmarks.floors import Product, floor
from benchmarks.measure import Row, at_best, compare, holds, median, seconds_per_byte, timed

TOPIC = "Models"
STREAMED = 128
"""Tokens generated in one measurement."""


def rows(small: bool) -> Iterator[Row]:
    """All rows of this file."""
    time = 128 if small else 1024
    for name, kind in (("Mamba-2", "mamba2"), ("RWKV-4", "rwkv")):
        theirs = peers.transformers_model(kind, 256, 2)
        ours = _same(theirs) if theirs is not None else None
        if ours is not None:
            yield from _training(f"{name}, 2 layers, width 256", ours, f"transformers {kind}", theirs, time)
    note = "transformers has no RWKV-7; its RWKV-4 is the peer"
    theirs, ours = peers.transformers_model("rwkv", 256, 2), recurra.LanguageModel(256, 256, "rwkv7*2")
    yield from _training("RWKV-7, 2 layers, width 256", ours, "transformers rwkv", theirs, time, note)
    yield from _streaming(small)


def _same(theirs: Any) -> torch.nn.Module:
    """The same model, ours."""
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        return recurra.load(folder)


def _training(name: str, ours: torch.nn.Module, peer: str, theirs: Any, time: int, note: str = "") -> Iterator[Row]:
    """A training step against the peer's, and the floor of it: the products of all its linear maps."""
    tokens = torch.randint(0, 256, (1, time + 1))

    def step(model: torch.nn.Module, logits: torch.Tensor) -> None:
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad], allow_unused=True)

    def work() -> None:
        step(ours.train(), ours(tokens[:, :-1])[0])

    row = compare(
        TOPIC,
        f"{name}, training step, T={time}",
        work,
        peer,
        None if theirs is None else lambda: step(theirs.train(), theirs(tokens[:, :-1], use_cache=False).logits),
        ">= 4" if name.startswith("Mamba") else ">= 13",
        7,
        note=note,
    )
    yield row
    if theirs is not None and "rwkv" not in peer:  # a Python loop of as many steps as there are takes hours to compile

        def call(model: torch.nn.Module) -> None:
            step(theirs.train(), model(tokens[:, :-1], use_cache=False).logits)

        tuned = peers.compiled(theirs, call)
        yield from at_best(row, work, partial(call, theirs), None if tuned is None else partial(call, tuned))
    matrices = [m.weight.shape for m in ours.modules() if isinstance(m, torch.nn.Linear)]
    yield floor(row, work, [Product(time, k, n) for n, k in matrices])


def _streaming(small: bool) -> Iterator[Row]:
    name = "Mamba, 8 layers, width 512, batch 1, time per token generated"
    theirs = peers.transformers_model("mamba", 128 if small else 512, 8)
    if theirs is None:
        return
    ours, prompt = _same(theirs), torch.randint(1, 256, (1, 8))
    theirs.eval()

    def generate() -> None:
        theirs.generate(prompt, max_new_tokens=STREAMED, min_new_tokens=STREAMED, do_sample=False, pad_token_id=0)

    def stream() -> None:
        session = ours.stream()
        session.feed(prompt[0])
        list(session.generate(STREAMED, temperature=0))

    row = compare(TOPIC, name, stream, "transformers generate", generate, ">= 5", 3)
    assert row.ours_ms
    assert row.peer_ms
    yield replace(row, ours_ms=row.ours_ms / STREAMED, peer_ms=row.peer_ms / STREAMED)
    each = sum(p.nbytes for p in ours.parameters())
    times = [(timed(stream) / STREAMED, 1e3 * each * seconds_per_byte()) for _ in range(5)]
    ratio = median([a / b for a, b in times])
    yield Row(
        TOPIC, name, median([a for a, _ in times]), "reading the weights once", median([b for _, b in times]),
        "<= 2", ratio, holds(ratio, "<= 2"), (min(a / b for a, b in times), max(a / b for a, b in times)),
    )  # fmt: skip
