"""Timing two functions in turn, so that what slows the machine down slows both."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

Work = Callable[[], Any]
Clock = Callable[[], float]


@dataclass(frozen=True)
class Row:
    """One comparison. `ratio` is what `target` speaks of: our time over the peer's for "<=", the inverse for ">="."""

    topic: str
    name: str
    ours_ms: float | None
    peer: str
    peer_ms: float | None
    target: str
    ratio: float | None
    met: bool | None
    spread: tuple[float, float] | None = None
    """Smallest and largest ratio seen, pair by pair."""
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def in_turn(
    ours: Work, peer: Work, repeats: int, settle: bool = False, clock: Clock = time.perf_counter
) -> list[tuple[float, float]]:
    """(ours, peer) in milliseconds, `repeats` times, after one warm-up each.

    With `settle`, ours runs twice, untimed, before it is timed: for a peer that takes gigabytes, whose return the
    system is still busy with.
    """
    ours(), peer()
    pairs = []
    for _ in range(repeats):
        if settle:
            ours(), ours()
        pairs.append((timed(ours, clock), timed(peer, clock)))
    return pairs


def timed(work: Work, clock: Clock = time.perf_counter) -> float:
    """Milliseconds of one run, with what earlier runs left behind cleared away before."""
    gc.collect()
    began = clock()
    work()
    return 1e3 * (clock() - began)


def median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def holds(ratio: float, target: str) -> bool:
    """Whether "<= 1.25" or ">= 60" is true of a ratio."""
    sign, limit = target.split()
    return ratio <= float(limit) if sign == "<=" else ratio >= float(limit)


def compare(
    topic: str,
    name: str,
    ours: Work,
    peer_name: str,
    peer: Work | None,
    target: str,
    repeats: int = 7,
    scale: float = 1.0,
    note: str = "",
    settle: bool = False,
    clock: Clock = time.perf_counter,
) -> Row:
    """Run both in turn, see `in_turn`.

    Args:
        clock: what is timed by; `time.process_time`, which counts the work of this process alone, where both run on one
            thread.
        scale: multiplies the peer's time, where it moves fewer bytes than ours by that factor.
    """
    if peer is None:
        ours()
        times = [timed(ours, clock) for _ in range(repeats)]
        return Row(topic, name, median(times), peer_name, None, target, None, None, None, "the peer is not installed")
    pairs = [(a, b * scale) for a, b in in_turn(ours, peer, repeats, settle, clock)]
    ratios = [a / b if target.startswith("<=") else b / a for a, b in pairs]
    ours_ms, peer_ms = median([a for a, _ in pairs]), median([b for _, b in pairs])
    ratio = ours_ms / peer_ms if target.startswith("<=") else peer_ms / ours_ms
    return Row(
        topic, name, ours_ms, peer_name, peer_ms, target, ratio, holds(ratio, target), (min(ratios), max(ratios)), note
    )


def at_best(row: Row, ours: Work, theirs: Work, tuned: Work | None) -> Iterator[Row]:
    """Beside a row, the peer under the best settings that its users have: compiled and tuned by PyTorch, and in
    bfloat16, then as ours is."""
    settings = {"torch.compile, max-autotune": (ours, tuned)}
    settings["autocast to bfloat16, both"] = tuple(map(autocast, (ours, theirs)))
    settings["torch.compile, max-autotune, and autocast to bfloat16, both"] = (
        autocast(ours),
        tuned and autocast(tuned),
    )
    for name, (mine, peer) in settings.items():
        if peer is not None:
            found = compare(row.topic, row.name, mine, f"{row.peer}; {name}", peer, ">= 0", 7, note=row.note)
            yield replace(found, target="", met=None)


def autocast(work: Work) -> Work:
    """The same with products in bfloat16."""

    def cast() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            work()

    return cast


def measured(topic: str, name: str, value: float, what: str, target: str, note: str = "") -> Row:
    """A row for a number that is not a pair of times, such as bytes or seconds; `ratio` is the number."""
    return Row(topic, name, None, what, None, target, value, holds(value, target), None, note)


def seconds_per_byte() -> float:
    """What reading memory takes: the fastest of some sums over numbers that no cache holds."""
    numbers = torch.ones(1 << 26)
    return min(timed(numbers.sum) for _ in range(5)) / 1e3 / numbers.nbytes
