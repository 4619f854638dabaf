"""A kernel for one time step of one sequence through something large: a block of a model, its matrices included.

All threads of a team run the same code. Loops over matrices are shared out by rows, each thread taking its own, and
end where all have met; whatever is small every thread computes for itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from recurra.compiler.access import Storage
from recurra.compiler.emitter import I64, PTR, Emitter, Type, Value
from recurra.compiler.graph import Node
from recurra.compiler.kernels import SHARE, Kernel
from recurra.compiler.layout import Arguments
from recurra.compiler.schedule import COST, Loop, Schedule
from recurra.compiler.writer import StepWriter

LARGE = 8192
"""Instructions, counted per element, from which on a loop is shared out."""
PATIENCE = 4096
"""How often a thread looks whether the others have come before it lets others have the processor."""


@dataclass(frozen=True)
class Single:
    """A schedule with where its leaves and outputs lie: by name, the scalar type of each."""

    schedule: Schedule
    leaves: Mapping[str, str]
    outputs: Mapping[str, str]
    real: str


def write_single(single: Single, width: int) -> Kernel:
    """The kernel `run(pointers, integers, scratch, first, last)`: the share of members first to last of a team.

    Arguments besides leaves and outputs: "shared", memory all members see, filled with zeros, "meetings", a zero for
    each loop that is shared out; the integer "team", how many members there are.
    """
    e = Emitter()
    args = Arguments(e)
    dealt = [step for step in single.schedule.steps if _is_dealt(step)]
    storages: dict[str | Node, Storage] = {
        name: Storage(args.pointer(name), scalar) for name, scalar in (single.leaves | single.outputs).items()
    }
    scratch, shared = _buffers(e, args, single, dealt, storages, width)
    writer = StepWriter(e, single.schedule, storages, single.real, width, False)
    for step in single.schedule.steps:
        assert isinstance(step, Loop)
        if step in dealt:
            writer.loop(step, _Share(e, args))
            _meet(e, args, dealt.index(step))
        else:
            writer.loop(step)
    args.pointer("meetings"), args.integer("team")
    ir = e.function("run", [("pointers", PTR), ("integers", PTR), ("scratch", PTR), ("first", I64), ("last", I64)])
    return Kernel(ir + SHARE, list(args.pointers), list(args.integers), scratch, shared, len(dealt))


def _is_dealt(step: Loop | Node) -> bool:
    """Whether rows of a loop go to several threads: it is large, and no two rows add to the same value."""
    if isinstance(step, Node) or len(step.shape) < 2:
        return False
    work = math.prod(step.shape) * (sum(COST.get(n.op, 1) for n in step.nodes) + len(step.reductions))
    return work >= LARGE and all(r.attr == (len(step.shape) - 1,) for r in step.reductions)


def _buffers(
    e: Emitter, args: Arguments, single: Single, dealt: list, storages: dict[str | Node, Storage], width: int
) -> tuple[int, int]:
    """Give every value that needs memory its place; how many numbers are a thread's own, and how many shared."""
    here = {node for step in dealt for node in step.nodes + step.reductions}
    targets = {p.target for node in here for p in single.schedule.places.get(node, [])}
    sizes = {"scratch": 0, "shared": 0}
    for node in single.schedule.buffers:
        gaps = node.op == "assemble" and sum(part.size for part in node.args) < node.size
        kind = "shared" if node in here or node in targets or gaps else "scratch"
        base = args.pointer("shared") if kind == "shared" else Value("%scratch", PTR)
        pointer = e.fresh(kind)
        e.entry.append(f"  {pointer} = getelementptr {single.real}, ptr {base.text}, i64 {sizes[kind]}")
        storages[node] = Storage(Value(pointer, PTR), single.real)
        sizes[kind] += -(-node.size // max(16, width)) * max(16, width)
    return sizes["scratch"], sizes["shared"]


class _Share:
    """This thread's part of an axis."""

    def __init__(self, e: Emitter, args: Arguments):
        self.e, self.team = e, args.integer("team")

    def __call__(self, size: int) -> tuple[Value, Value]:
        """From where to where of `size` things."""
        ends = []
        for member in ("%first", "%last"):
            whole = self.e.mul(Value(member, I64), self.e.constant(size, I64))
            ends.append(self.e.div(whole, self.team))
        return ends[0], ends[1]


def _meet(e: Emitter, args: Arguments, number: int) -> None:
    """Wait until every member of the team has come here."""
    e.declarations.add("declare i32 @sched_yield()")
    team, counter = args.integer("team"), e.offset(args.pointer("meetings"), e.constant(number, I64), "i64")
    members = e.sub(Value("%last", I64), Value("%first", I64))
    e.instruction(I64, f"atomicrmw add ptr {counter.text}, i64 {members.text} acq_rel")
    looks, again, rest, done = (e.label(hint) for hint in ("look", "again", "rest", "met"))
    count = e.variable(e.constant(0, I64))
    e.jump(looks)
    e.block(looks)
    come = e.instruction(I64, f"load atomic i64, ptr {counter.text} acquire, align 8")
    e.lines.append(f"  br {e.compare('sge', come, team)}, label %{done}, label %{again}")
    e.block(again)
    tries = e.add(e.get(count), e.constant(1, I64))
    e.set(count, tries)
    impatient = e.compare("sge", tries, e.constant(PATIENCE, I64))
    e.lines.append(f"  br {impatient}, label %{rest}, label %{looks}")
    e.block(rest)
    e.instruction(Type("i32"), "call i32 @sched_yield()")
    e.jump(looks)
    e.block(done)
