"""The two kernels of a recurrence: all time steps forward, and all of them backward."""

from __future__ import annotations

from dataclasses import dataclass

from recurra.compiler.codegen.arguments import Variant
from recurra.compiler.codegen.channel import Channel
from recurra.compiler.codegen.emitter import I64, PTR, Emitter, Value
from recurra.compiler.codegen.head import Head
from recurra.compiler.codegen.layout import Layout
from recurra.compiler.codegen.passes import Forward
from recurra.compiler.codegen.reverse import Reverse
from recurra.compiler.planning.plan import Plan


@dataclass(frozen=True)
class Kernel:
    """IR text with the names of its arguments in order."""

    ir: str
    pointers: list[str]
    integers: list[str]
    scratch: int
    """Numbers of scratch memory per thread."""
    shared: int = 0
    """Numbers of memory that the threads share."""
    cleared: int = 0
    """The same, of memory that has to be zero at first."""
    dealt: int = 0
    """Loops whose rows are dealt out to the threads."""


SHARE = """
; What every thread of an OpenMP team runs: its share of the items of some kernels, one after the other, with its part
; of the scratch memory. task: how many kernels, their functions, their pointers, integers, scratch, bytes of scratch
; per thread, items, omp_get_thread_num, omp_get_num_threads.
define void @share(ptr %task) {
entry:
  %p1 = getelementptr i64, ptr %task, i64 1
  %p2 = getelementptr i64, ptr %task, i64 2
  %p3 = getelementptr i64, ptr %task, i64 3
  %p4 = getelementptr i64, ptr %task, i64 4
  %p5 = getelementptr i64, ptr %task, i64 5
  %p6 = getelementptr i64, ptr %task, i64 6
  %p7 = getelementptr i64, ptr %task, i64 7
  %p8 = getelementptr i64, ptr %task, i64 8
  %kernels = load i64, ptr %task
  %functions = load ptr, ptr %p1
  %arguments = load ptr, ptr %p2
  %integers = load ptr, ptr %p3
  %memory = load ptr, ptr %p4
  %size = load i64, ptr %p5
  %items = load i64, ptr %p6
  %get_number = load ptr, ptr %p7
  %get_count = load ptr, ptr %p8
  %short_number = call i32 %get_number()
  %short_count = call i32 %get_count()
  %number = sext i32 %short_number to i64
  %count = sext i32 %short_count to i64
  %offset = mul i64 %number, %size
  %scratch = getelementptr i8, ptr %memory, i64 %offset
  %begin = mul i64 %items, %number
  %end = add i64 %begin, %items
  %first = sdiv i64 %begin, %count
  %last = sdiv i64 %end, %count
  br label %next
next:
  %i = phi i64 [ 0, %entry ], [ %j, %next ]
  %pf = getelementptr ptr, ptr %functions, i64 %i
  %pa = getelementptr ptr, ptr %arguments, i64 %i
  %function = load ptr, ptr %pf
  %pointers = load ptr, ptr %pa
  call void %function(ptr %pointers, ptr %integers, ptr %scratch, i64 %first, i64 %last)
  %j = add i64 %i, 1
  %more = icmp slt i64 %j, %kernels
  br i1 %more, label %next, label %done
done:
  ret void
}
"""


def write_kernel(plan: Plan, variant: Variant, width: int) -> Kernel:
    """The kernel `run(pointers, integers, scratch, first item, last item)` of a plan; `width` numbers in a vector."""
    # Items are independent of one another: the threads deal them out by `first` and `last`, see SHARE.
    e = Emitter()
    layout: Layout = Channel(e, plan, width, variant.pitch) if plan.channel else Head(e, plan, width, variant.rows)
    with e.loop(Value("%first", I64), Value("%last", I64)) as item:
        layout.begin(item)
        (Reverse if variant.reverse else Forward)(e, layout, plan, variant).write()
    # Stores past the caches are not ordered with others: without the fence another thread could read old numbers.
    if variant.past_caches:
        e.fence()
    ir = e.function("run", [("pointers", PTR), ("integers", PTR), ("scratch", PTR), ("first", I64), ("last", I64)])
    return Kernel(ir + SHARE, list(layout.args.pointers), list(layout.args.integers), layout.scratch_size)
