"""Kinds of calls of a plan: what decides which kernels run, and the texts that the operator knows them by."""

from __future__ import annotations

import functools
import math
import threading
import weakref
from dataclasses import dataclass, field

from recurra.compiler.codegen.arguments import Kind, Variant, gradient_outputs, padded
from recurra.compiler.planning import written
from recurra.compiler.planning.plan import Plan, planned
from recurra.compiler.targets import host
from recurra.engines.kernels import threads
from recurra.errors import RecurraError
from recurra.problem import Problem

CACHE_BYTES = 1024 * 1024
"""Bytes of states that one thread keeps while it goes back over a chunk of time steps."""

_lock = threading.Lock()
_calls: weakref.WeakValueDictionary[str, Call] = weakref.WeakValueDictionary()
"""By their texts, where those have been asked for. A call lives as long as its plan, which lives as long as the layers
that it was made for."""


@dataclass(frozen=True, eq=False)
class Call:
    """A kind of call: all that decides which kernels run, but no tensors. One is kept of each kind."""

    plan: Plan
    names: tuple[str, ...]
    """Of the tensors given, in order."""
    save: bool
    resets: bool
    lengths: bool
    width: int
    rows: int
    pitch: int
    chunk: int
    cut: bool
    """Whether time may be cut into segments (see `segments`)."""
    keys: dict[tuple[bool, bool], str] = field(default_factory=dict)
    """The keys of its kernels so far."""
    forgetting: list[int] = field(default_factory=list)
    """In how many time steps segments forgot the state they began with, last time; 0 if they did not."""

    def variant(self, reverse: bool, large: bool) -> Variant:
        save = self.save and not reverse
        return Variant(reverse, self.resets, self.lengths, save, self.rows, self.pitch, self.chunk, large)

    @functools.cached_property
    def text(self) -> str:
        """All of it as text: what a graph that holds the operator carries, so that any process can run it."""
        how = {"names": self.names, "save": self.save, "resets": self.resets, "lengths": self.lengths}
        text = written.write(self.plan.origin, how | {"rows": self.rows, "cut": self.cut})
        with _lock:
            _calls[text] = self
        return text

    @functools.cached_property
    def numbers(self) -> int:
        """Of the states of one sequence, or one per lane where they hold none."""
        return self.plan.lanes * max(1, sum(math.prod(shape) for shape in self.plan.states.values()))

    @functools.cached_property
    def stored(self) -> list[tuple[str, int]]:
        """What the forward kernel keeps for the reverse one: names and numbers per lane."""
        if not self.save:
            return []
        states = [(f"stored.{name}", math.prod(shape)) for name, shape in self.plan.states.items()]
        return states + [(name, padded(node.size, self.width)) for name, node in self.plan.kept.items()]


def call_of(plan: Plan, names: tuple[str, ...], problem: Problem, save: bool, cut: bool) -> Call:
    """The kind of a call.

    Args:
        names: of the tensors given, in order.
        save: whether the way back will be asked for.
        cut: whether time may be cut into segments.
    """
    resets, lengths = problem.resets is not None, problem.lengths is not None
    # While a program is exported, a size may be open.
    batch = problem.batch if isinstance(problem.batch, int) else 1
    key = (names, save, resets, lengths, batch if plan.products else 0, threads.count(), cut)
    with _lock:
        if key not in plan.calls:
            plan.calls[key] = _made(plan, names, save, resets, lengths, _rows(plan, batch, lengths), cut)
        return plan.calls[key]


def _made(plan: Plan, names: tuple[str, ...], save: bool, resets: bool, lengths: bool, rows: int, cut: bool) -> Call:
    """A kind of call, with what this machine decides."""
    width, pitch = vector_width(plan), pitch_of(plan)
    states = sum(math.prod(shape) for shape in (*plan.states.values(), *plan.recalled.values()))
    per_step = states * (pitch if plan.channel else 1) * (8 if plan.real == "double" else 4)
    chunk = max(4, min(64, 2 ** int(math.log2(max(1, CACHE_BYTES // per_step)))))
    chunk = 1 if plan.stores_every_state else chunk
    return Call(plan, names, save, resets, lengths, width, rows, pitch, chunk, cut)


def called(text: str) -> Call:
    """The call of a text, made from it if this process has none. Raises RecurraError if the text is damaged."""
    call = _calls.get(text)
    return _read(text) if call is None else call


@functools.lru_cache(64)
def _read(text: str) -> Call:
    try:
        origin, how = written.read(text)
        return _made(planned(origin), tuple(how.pop("names")), **how)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RecurraError(
            f"recurra::rollout cannot read which kernel it is to run: {error}; export the program again"
        ) from error


def _rows(plan: Plan, batch: int, lengths: bool) -> int:
    """Sequences that share one reading of the recurrent matrices."""
    sums = any(output.kind in (Kind.PART_LANE, Kind.PART) for output in gradient_outputs(plan))
    if plan.channel or not plan.products or (lengths and sums):
        return 1
    tiles = -(-threads.count() // plan.lanes)
    return max(1, min(8, -(-batch // tiles)))


def vector_width(plan: Plan) -> int:
    """Numbers in a vector of this machine."""
    return host.vector_bytes() // (8 if plan.real == "double" else 4)


def pitch_of(plan: Plan) -> int:
    """Channels, at most, that one thread takes through time together."""
    width, states = vector_width(plan), sum(math.prod(shape) for shape in plan.states.values())
    most = padded((8192 if states < 3 else 2048) // max(1, states), width)
    return min(padded(plan.lanes, width), max(8 * width, most))
