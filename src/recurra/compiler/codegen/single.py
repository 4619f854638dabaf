"""A kernel for one time step of one sequence through something large: a block of a model, its matrices included.

All threads of a team run the same code. The rows of loops over matrices are dealt out; whatever is small every thread
computes for itself. Every value has memory of its own, so that it does no harm if one thread is far behind the others.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from recurra.compiler.codegen.access import Storage
from recurra.compiler.codegen.emitter import I64, PTR, Emitter, Type, Value
from recurra.compiler.codegen.kernels import SHARE, Kernel
from recurra.compiler.codegen.layout import Arguments
from recurra.compiler.codegen.writer import StepWriter
from recurra.compiler.frontend.graph import Node
from recurra.compiler.planning.schedule import COST, Loop, Schedule

LARGE = 8192
"""Instructions, counted per element, from which on the rows of a loop are dealt out."""
PIECES = 4
"""Pieces in a thread's part of a loop."""
PATIENCE = 4096
"""How often a thread looks whether the others are done before it lets others have the processor."""
LINE = 64
"""Bytes in a line of the cache: counters that threads write to at once lie that far apart."""


@dataclass(frozen=True)
class Single:
    """A schedule with where its leaves and outputs lie: by name, the scalar type of each."""

    schedule: Schedule
    leaves: Mapping[str, str]
    outputs: Mapping[str, str]
    real: str


def write_single(single: Single, width: int) -> Kernel:
    """The kernel `run(pointers, integers, scratch, first, last)`: what member `first` of a team does.

    Arguments besides leaves and outputs: "shared", memory all members see; "cleared", the same, filled with zeros;
    "counters", zeros (see `counters`); the integer "team", how many members there are.
    """
    e = Emitter()
    args = Arguments(e)
    dealt = [step for step in single.schedule.steps if _is_dealt(step)]
    storages: dict[str | Node, Storage] = {
        name: Storage(args.pointer(name), scalar) for name, scalar in (single.leaves | single.outputs).items()
    }
    sizes = _buffers(e, args, single, dealt, storages, width)
    writer = StepWriter(e, single.schedule, storages, single.real, width, False)
    for step in single.schedule.steps:
        assert isinstance(step, Loop)
        if step in dealt:
            writer.loop(step, _Deal(e, args, dealt.index(step)))
        else:
            writer.loop(step)
    args.pointer("counters"), args.integer("team")
    ir = e.function("run", [("pointers", PTR), ("integers", PTR), ("scratch", PTR), ("first", I64), ("last", I64)])
    return Kernel(ir + SHARE, list(args.pointers), list(args.integers), **sizes, dealt=len(dealt))


def counters(dealt: int, team: int) -> int:
    """Bytes of counters that a kernel needs."""
    return dealt * (team + 1) * LINE


def _is_dealt(step: Loop | Node) -> bool:
    """Whether rows of a loop go to several threads: it is large, and no two rows add to the same value."""
    if isinstance(step, Node) or len(step.shape) < 2:
        return False
    work = math.prod(step.shape) * (sum(COST.get(n.op, 1) for n in step.nodes) + len(step.reductions))
    return work >= LARGE and all(r.attr == (len(step.shape) - 1,) for r in step.reductions)


def _buffers(
    e: Emitter, args: Arguments, single: Single, dealt: list, storages: dict[str | Node, Storage], width: int
) -> dict[str, int]:
    """Give every value that needs memory its place; numbers in each kind of memory."""
    # What a dealt loop computes is read by every thread, so it lies in shared memory; the rest each thread computes for
    # itself, in its own scratch. A value with gaps between its parts has to be zero there before anybody writes.
    here = {node for step in dealt for node in step.nodes + step.reductions}
    targets = {p.target for node in here for p in single.schedule.places.get(node, [])}
    sizes = {"scratch": 0, "shared": 0, "cleared": 0}
    for node in single.schedule.buffers:
        gaps = node.op == "assemble" and sum(part.size for part in node.args) < node.size
        kind = "cleared" if gaps else "shared" if node in here or node in targets else "scratch"
        base = Value("%scratch", PTR) if kind == "scratch" else args.pointer(kind)
        pointer = e.fresh(kind)
        e.entry.append(f"  {pointer} = getelementptr {single.real}, ptr {base.text}, i64 {sizes[kind]}")
        storages[node] = Storage(Value(pointer, PTR), single.real)
        sizes[kind] += -(-node.size // max(16, width)) * max(16, width)
    return sizes


class _Deal:
    """A loop whose rows are dealt out: every member of the team takes pieces of its own part first, then of the parts
    of others, until none is left, and goes on once all pieces are done. Nobody waits for a member that took none.

    Its counters, each in a line of the cache: for every member, how many pieces of its part are taken; and how many
    are done.
    """

    def __init__(self, e: Emitter, args: Arguments, number: int):
        self.e, self.team = e, args.integer("team")
        # Loop number n has team + 1 lines of the cache: one per member for the pieces taken, the last for those done.
        members = e.add(self.team, e.constant(1, I64))
        self.counters = e.offset(args.pointer("counters"), self._lines(members, e.constant(number, I64)), "i64")

    def _lines(self, *factors: Value) -> Value:
        index = self.e.constant(LINE // 8, I64)
        for factor in factors:
            index = self.e.mul(index, factor)
        return index

    def _count(self, counter: Value, memory_order: str) -> Value:
        """Add one; gives how many there were."""
        return self.e.instruction(I64, f"atomicrmw add ptr {counter.text}, i64 1 {memory_order}")

    @contextmanager
    def __call__(self, size: int) -> Iterator[tuple[Value, Value]]:
        """A block that runs for every piece this member takes: from where to where of `size` things."""
        e = self.e
        pieces = e.mul(self.team, e.constant(PIECES, I64))
        done = e.offset(self.counters, self._lines(self.team), "i64")
        with e.loop(0, self.team) as k:
            whose = e.instruction(I64, f"srem {e.add(Value('%first', I64), k)}, {self.team.text}")
            taken = e.offset(self.counters, self._lines(whose), "i64")
            take, work, none = (e.label(hint) for hint in ("take", "work", "none"))
            e.jump(take)
            e.block(take)
            # Taking needs no order: who takes a piece reads nothing that another wrote in this loop.
            number = self._count(taken, "monotonic")
            left = e.compare("slt", number, e.constant(PIECES, I64))
            e.lines.append(f"  br {left}, label %{work}, label %{none}")
            e.block(work)
            piece = e.add(e.mul(whose, e.constant(PIECES, I64)), number)
            # Piece p of P pieces of `size` things goes from p * size / P to (p + 1) * size / P, both rounded down: no
            # gap and no overlap, and lengths differ by one at most.
            ends = [e.mul(n, e.constant(size, I64)) for n in (piece, e.add(piece, e.constant(1, I64)))]
            yield e.div(ends[0], pieces), e.div(ends[1], pieces)
            # Whoever sees this piece counted (by the acquire in `_wait`) also sees what was written in it.
            self._count(done, "release")
            e.jump(take)
            e.block(none)
        self._wait(done, pieces)

    def _wait(self, counter: Value, number: Value) -> None:
        """Go on when the counter has come to a number."""
        e = self.e
        look, again, rest, done = (e.label(hint) for hint in ("look", "again", "rest", "done"))
        count = e.variable(e.constant(0, I64))
        e.jump(look)
        e.block(look)
        come = e.instruction(I64, f"load atomic i64, ptr {counter.text} acquire, align 8")
        e.lines.append(f"  br {e.compare('sge', come, number)}, label %{done}, label %{again}")
        e.block(again)
        tries = e.add(e.get(count), e.constant(1, I64))
        e.set(count, tries)
        impatient = e.compare("sge", tries, e.constant(PATIENCE, I64))
        e.lines.append(f"  br {impatient}, label %{rest}, label %{look}")
        e.block(rest)
        if sys.platform != "win32":  # which has no such function: there the member goes on looking
            e.declarations.add("declare i32 @sched_yield()")
            e.instruction(Type("i32"), "call i32 @sched_yield()")
        e.jump(look)
        e.block(done)
