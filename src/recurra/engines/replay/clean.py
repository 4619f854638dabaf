"""A recording made shorter: views that change nothing, transposes that meet, what nobody reads, and what is the same at
all time steps, which is computed once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Set
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from recurra.compiler.frontend.prepared import Operation, Origin, Result, Weight, origins, replaced
from recurra.compiler.frontend.refusal import Untraceable
from recurra.engines.replay.record import Recorder, place, writes

Numbered = dict[int, Operation]
"""Operations by the number that their results go by, in order."""

aten = torch.ops.aten


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
    if not written:
        operations = _needed(_products(operations, recorder, results), results, recorder)
    changing: set[Origin] = {*map(Weight, moving), *written}
    once: Numbered = {}
    each: Numbered = {}
    for number, operation in operations.items():
        made = {Result(number, i) for i in range(recorder.counts[number] or 1)}
        read = _read(operation)
        if changing & (made | set(read)) or not (made & recorder.examples.keys()):
            each[number] = operation
            changing |= made
        else:
            once[number] = operation
    wanted = {o for operation in each.values() for o in _read(operation)} | set(results)
    kept = tuple(sorted((o for o in wanted if isinstance(o, Result) and o.operation in once),
                        key=lambda o: (o.operation, o.number)))  # fmt: skip
    named = [o.name for operation in operations.values() for o in _read(operation) if isinstance(o, Weight)]
    named += [o.name for o in results if isinstance(o, Weight)]
    leaves = frozenset(o.name for o in written if isinstance(o, Weight))
    return Flat(once, each, results, kept, leaves, tuple(dict.fromkeys(named)))


def _read(operation: Operation) -> list[Any]:
    return origins((operation.args, operation.kwargs))


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


def _products(operations: Numbered, recorder: Recorder, results: tuple[Origin, ...]) -> Numbered:
    """(A B^T)^T as B A^T, of which one factor often is the same at all times; and a product and a sum as one."""
    uses = Counter([o for operation in operations.values() for o in _read(operation)] + list(results))
    left: Numbered = {}

    def maker(origin: Any, *functions: Any) -> Operation | None:
        """The operation that made a value, if it is one of these."""
        made = left.get(origin.operation) if isinstance(origin, Result) else None
        return made if made is not None and made.function in functions else None

    def product(origin: Any) -> tuple[Origin, Origin] | None:
        """The factors of a product that nobody else reads."""
        made = maker(origin, aten.mm.default) if uses[origin] == 1 else None
        return None if made is None or not made.with_gradient else made.args

    def transposed(origin: Origin) -> Origin:
        made = maker(origin, aten.t.default)
        if made is not None and made.with_gradient:
            return made.args[0]
        number = recorder.further(Operation(aten.t.default, (origin,), {}, True), recorder.examples[origin].t())
        left[number] = recorder.operations[number]
        return Result(number)

    for number, operation in operations.items():
        own = operation
        if _is_transpose(operation, recorder):
            own = replace(operation, function=aten.t.default, args=operation.args[:1])
        if own.function is aten.t.default and own.with_gradient and (factors := product(own.args[0])):
            own = Operation(aten.mm.default, (transposed(factors[1]), transposed(factors[0])), {}, True)
        if own.function is aten.add.Tensor and own.with_gradient and not own.kwargs:
            own = _with_sum(own, Result(number), recorder, product)
        left[number] = own
    return left


def _is_transpose(operation: Operation, recorder: Recorder) -> bool:
    function, args = operation.function, operation.args
    if function not in (aten.permute.default, aten.transpose.int) or recorder.examples[args[0]].dim() != 2:
        return False
    return [d % 2 for d in (args[1] if function is aten.permute.default else args[1:])] == [1, 0]


def _with_sum(operation: Operation, result: Result, recorder: Recorder, product: Callable) -> Operation:
    """A sum of which one part is a product, as one operation."""
    for a, b in (operation.args, operation.args[::-1]):
        if isinstance(a, Weight | Result) and isinstance(b, Weight | Result) and (factors := product(a)):
            whole, term = recorder.examples[a], recorder.examples[b]
            if whole.dtype == term.dtype and whole.shape == recorder.examples[result].shape:
                return Operation(aten.addmm.default, (b, *factors), {}, True)
    return operation


def _needed(operations: Numbered, results: tuple[Origin, ...], recorder: Recorder) -> Numbered:
    """What the results need, and what has effects: it writes, or raises an error."""
    wanted, left = set(results), []
    for number, operation in reversed(operations.items()):
        made = {Result(number, i) for i in range(recorder.counts[number] or 1)} & recorder.examples.keys()
        if made & wanted or not made:
            wanted |= set(_read(operation))
            left.append(number)
    return {number: operations[number] for number in reversed(left)}
