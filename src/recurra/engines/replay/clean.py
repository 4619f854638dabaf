"""A recording made shorter: views that change nothing, transposes that meet, what nobody reads, and what is the same at
all time steps, which is computed once."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from recurra.compiler.frontend.prepared import Origin, Result, Weight, replaced
from recurra.compiler.frontend.refusal import Untraceable
from recurra.engines.replay.record import Recorder, place, writes
from recurra.engines.replay.rewrite import Numbered, products, read, straightened, values_only


@dataclass(frozen=True)
class Flat:
    """What happens once, what happens at every time step, and what comes out of that."""

    fixed: Numbered
    moving: Numbered
    results: tuple[Origin, ...]
    kept: tuple[Result, ...]
    """Results of what happens once that time steps read."""
    written: frozenset[str]
    """Leaves whose memory the step writes to, so that it has to be given copies."""
    leaves: tuple[str, ...]
    """Those that are read."""


def flat(recorder: Recorder, results: tuple[Origin, ...], moving: Set[str]) -> Flat:
    """The recording of a step that returns `results`, of which the leaves named `moving` change in time.

    Raises Untraceable if it writes to a weight.
    """
    operations, same = _without_views(recorder)
    results = tuple(same.get(origin, origin) for origin in results)
    memory = {_memory(recorder.examples[o]) for operation in operations.values() for o in writes(operation)}
    written = {o for o, t in recorder.examples.items() if memory and _memory(t) in memory}
    for origin in written:
        if isinstance(origin, Weight) and origin.name.startswith("weight."):
            raise Untraceable(f"step writes to the memory of {origin.name.removeprefix('weight.')}: make it a state")
    operations = _needed(operations, results, recorder)
    if not written and not any(o.function is torch.ops.aten.as_strided.default for o in operations.values()):
        operations, results = straightened(operations, recorder, results)
        operations = products(_needed(operations, results, recorder), recorder, results)
        operations, results = straightened(operations, recorder, results)
        operations = values_only(_needed(operations, results, recorder), results)
    changing: set[Origin] = {*map(Weight, moving), *written}
    once: Numbered = {}
    each: Numbered = {}
    for number, operation in operations.items():
        made = {Result(number, i) for i in range(recorder.counts[number] or 1)}
        if changing & made.union(read(operation)) or not (made & recorder.examples.keys()):
            each[number] = operation
            changing |= made
        else:
            once[number] = operation
    wanted = {o for operation in each.values() for o in read(operation)} | set(results)
    kept = tuple(sorted((o for o in wanted if isinstance(o, Result) and o.operation in once),
                        key=lambda o: (o.operation, o.number)))  # fmt: skip
    named = [o.name for operation in operations.values() for o in read(operation) if isinstance(o, Weight)]
    named += [o.name for o in results if isinstance(o, Weight)]
    leaves = frozenset(o.name for o in written if isinstance(o, Weight))
    return Flat(once, each, results, kept, leaves, tuple(dict.fromkeys(named)))


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _without_views(recorder: Recorder) -> tuple[Numbered, dict[Origin, Origin]]:
    """Without operations that give what is there already, in the same memory and in the same order."""
    same: dict[Origin, Origin] = {}
    places: dict[tuple, Origin] = {}
    left: Numbered = {}

    def known(origin: Origin) -> Origin:
        return same.get(origin, origin)

    for origin, example in recorder.examples.items():
        if isinstance(origin, Weight):
            places[place(example, recorder.is_tracked(origin))] = origin
    for number, operation in enumerate(recorder.operations):
        result = Result(number)
        operation = replace(operation, args=replaced(operation.args, known), kwargs=replaced(operation.kwargs, known))
        if recorder.counts[number] is None and result in recorder.examples:
            own = place(recorder.examples[result], recorder.is_tracked(result))
            if (earlier := places.setdefault(own, result)) is not result:
                same[result] = earlier
                continue
        left[number] = operation
    return left, same


def _needed(operations: Numbered, results: tuple[Origin, ...], recorder: Recorder) -> Numbered:
    """What the results need, and what has effects: it writes, or raises an error."""
    wanted, left = set(results), []
    for number, operation in reversed(operations.items()):
        made = {Result(number, i) for i in range(recorder.counts[number] or 1)} & recorder.examples.keys()
        if made & wanted or not made:
            wanted |= set(read(operation))
            left.append(number)
    return {number: operations[number] for number in reversed(left)}
