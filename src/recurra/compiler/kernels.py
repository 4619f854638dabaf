"""The two kernels of a recurrence: all time steps forward, and all of them backward.

Arguments are named; `kind` says which axes one has, in the order of memory (channel layout | head layout, s the
shape of one lane): "time lane" [B, T, s, L | L, s]; "time" [B, T, s]; "lane" [s, L | L, s]; "one" [s]; "batch lane"
[B, s, L | L, s]; "chunk" [B, chunks, s, L | L, s]; "part time" [parts, B, T, s], "part lane" [tiles, s, L | L, s] and
"part" [items, s] hold partial sums, one per block of lanes, tile of sequences or item, that the caller adds up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

from recurra.compiler.emitter import I64, PTR, Emitter, Type, Value
from recurra.compiler.graph import Node
from recurra.compiler.layout import Channel, Head, Layout
from recurra.compiler.plan import Leaf, Plan
from recurra.compiler.schedule import Schedule
from recurra.compiler.writer import Storage


@dataclass(frozen=True)
class Variant:
    """What a kernel is compiled for, besides its plan."""

    reverse: bool
    resets: bool
    lengths: bool
    save: bool
    """Whether the forward kernel stores what the reverse one needs."""
    rows: int
    """Sequences per item (head layout)."""
    pitch: int
    """Most lanes per item (channel layout)."""
    chunk: int
    """Time steps between stored states."""


@dataclass(frozen=True)
class Kernel:
    """IR text with the names of its arguments in order."""

    ir: str
    pointers: list[str]
    integers: list[str]
    scratch: int
    """Numbers of scratch memory per thread."""


@dataclass(frozen=True)
class Output:
    """One result of a schedule: where it goes and how."""

    name: str
    kind: str
    shape: tuple[int, ...]
    scalar: str

    @property
    def size(self) -> int:
        return math.prod(self.shape)


def leaf_kind(leaf: Leaf) -> str:
    """The kind of argument a leaf is."""
    return ("time lane" if leaf.per_lane else "time") if leaf.per_time else ("lane" if leaf.per_lane else "one")


def gradient_outputs(plan: Plan) -> list[Output]:
    """Every gradient the reverse kernel writes, besides the adjoint of the state."""
    parts = {"time lane": "time lane", "time": "part time", "lane": "part lane", "one": "part"}
    taken = {outer.leaf for outer in plan.outers}
    written = {p.target for places in plan.reverse.places.values() for p in places}
    outputs = []
    for name, leaf in plan.leaves.items():
        if f"grad.{name}" in written and name not in taken:
            kind = parts[leaf_kind(leaf)]
            scalar = leaf.scalar if kind == "time lane" else plan.real
            outputs.append(Output(f"grad.{name}", kind, leaf.shape, scalar))
    for outer in plan.outers:
        m, k = plan.leaves[outer.leaf].shape
        outputs += [Output(outer.left, "time lane", (m,), plan.real), Output(outer.right, "time lane", (k,), plan.real)]
    return outputs


def packed_name(schedule: Schedule, product: Node) -> str:
    """The argument that holds a product's matrix, packed."""
    view = schedule.views[product.args[0]]
    return f"matrix:{view.base.attr}:{view.offset}:{view.strides}:{product.args[0].shape}"


SHARE = """
; What every thread of an OpenMP team runs: its share of the items, with its part of the scratch memory.
; task: pointers, integers, scratch, bytes of scratch per thread, items, omp_get_thread_num, omp_get_num_threads.
define void @share(ptr %task) {
  %p1 = getelementptr i64, ptr %task, i64 1
  %p2 = getelementptr i64, ptr %task, i64 2
  %p3 = getelementptr i64, ptr %task, i64 3
  %p4 = getelementptr i64, ptr %task, i64 4
  %p5 = getelementptr i64, ptr %task, i64 5
  %p6 = getelementptr i64, ptr %task, i64 6
  %pointers = load ptr, ptr %task
  %integers = load ptr, ptr %p1
  %memory = load ptr, ptr %p2
  %size = load i64, ptr %p3
  %items = load i64, ptr %p4
  %get_number = load ptr, ptr %p5
  %get_count = load ptr, ptr %p6
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
  call void @run(ptr %pointers, ptr %integers, ptr %scratch, i64 %first, i64 %last)
  ret void
}
"""


def write_kernel(plan: Plan, variant: Variant, width: int) -> Kernel:
    """The kernel `run(pointers, integers, scratch, first item, last item)` of a plan, for vectors of `width` numbers."""
    e = Emitter()
    layout: Layout = Channel(e, plan, width, variant.pitch) if plan.channel else Head(e, plan, width, variant.rows)
    with e.loop(Value("%first", I64), Value("%last", I64)) as item:
        layout.begin(item)
        (_Reverse if variant.reverse else _Forward)(e, layout, plan, variant).write()
    ir = e.function("run", [("pointers", PTR), ("integers", PTR), ("scratch", PTR), ("first", I64), ("last", I64)])
    return Kernel(ir + SHARE, list(layout.args.pointers), list(layout.args.integers), layout.scratch_size)


class _Kernel:
    """What both directions share: states in scratch memory, resets, the length of a row."""

    def __init__(self, e: Emitter, layout: Layout, plan: Plan, variant: Variant):
        self.e, self.layout, self.plan, self.variant = e, layout, plan, variant
        self.sizes = {name: math.prod(shape) for name, shape in plan.states.items()}

    def blocks(self, count: int = 1) -> dict[str, Value]:
        """Scratch memory for `count` states."""
        return {name: self.layout.block(size, count) for name, size in self.sizes.items()}

    def argument(self, prefix: str, kind: str = "batch lane", t: Value | None = None) -> dict[str, Storage]:
        """All states of one argument, such as the one each sequence starts from."""
        real = self.plan.real
        return {n: self.layout.at(f"{prefix}.{n}", kind, size, real, t) for n, size in self.sizes.items()}

    def own(self, blocks: Mapping[str, Value], index: Value | None = None) -> dict[str, Storage]:
        """States in scratch memory as storage: the only one, or number `index`."""
        layout = self.layout
        at = {n: b if index is None else layout.block_at(b, self.sizes[n], index) for n, b in blocks.items()}
        return {name: layout.own(block, self.sizes[name]) for name, block in at.items()}

    def move(self, to: Mapping[str, Storage], source: Mapping[str, Storage] | None, row: Value | None = None) -> None:
        """Copy states, or fill them with zeros."""
        for name, size in self.sizes.items():
            self.layout.transfer(to[name], None if source is None else source[name], size, row)

    def time(self) -> Value:
        """Time steps to run for this item."""
        layout = self.layout
        if not self.by_row and self.variant.lengths:
            return self.e.load(self.e.offset(layout.args.pointer("lengths"), layout.sequence(None), "i64"), I64)
        return layout.args.integer("time")

    @property
    def by_row(self) -> bool:
        """Whether rows of an item may end at different time steps."""
        return self.variant.lengths and self.layout.rows > 1

    @contextmanager
    def active(self, row: Value | None, t: Value) -> Iterator[None]:
        """A block that runs only where time step t of a row is not padding."""
        if not self.by_row:
            yield
            return
        e, layout = self.e, self.layout
        length = e.load(e.offset(layout.args.pointer("lengths"), layout.sequence(row), "i64"), I64)
        with e.when(e.compare("slt", t, length)):
            yield

    @contextmanager
    def reset(self, t: Value, row: Value | None) -> Iterator[None]:
        """A block that runs only where a packed sequence starts at t."""
        e, layout = self.e, self.layout
        at = layout.sum((layout.sequence(row), layout.args.integer("time")), t)
        flag = e.load(e.offset(layout.args.pointer("resets"), at, "i8"), Type("i8"))
        with self.active(row, t), e.when(e.compare("ne", flag, e.constant(0, flag.type))):
            yield

    def restart(self, states: Mapping[str, Storage], t: Value) -> None:
        """Put the start state where a packed sequence starts."""
        if self.variant.resets:
            start = self.argument("start", "lane")
            with self.layout.each_row() as row, self.reset(t, row):
                self.move(states, start, row)

    def leaves(self, t: Value) -> dict[str | Node, Storage]:
        """Storage of everything `step` reads besides the state."""
        return {
            name: self.layout.at(name, leaf_kind(leaf), math.prod(leaf.shape), leaf.scalar, t)
            for name, leaf in self.plan.leaves.items()
        }

    def run(
        self,
        schedule: Schedule,
        storages: Callable[[], dict[str | Node, Storage]],
        carried: tuple[str, str],
        target: Callable[[], dict[str, Storage]],
        t: Value,
        keep: bool = False,
    ) -> None:
        """One time step of a schedule that turns the states `<before>.<name>` into `<after>.<name>` at `target`.

        Where a state may not be written while it is still read, or a row may have ended, it is computed beside and
        then moved. With `keep` the target is other memory than what is read.
        """
        before, after = carried
        shapes = self.plan.states
        direct = not self.by_row and (
            keep or all(schedule.writes_in_place(self.plan.leaf(f"{before}.{n}"), f"{after}.{n}") for n in shapes)
        )
        beside = None if direct else self._beside(after)

        def all_storages() -> dict[str | Node, Storage]:
            written = target() if beside is None else self.own(beside)
            return storages() | {f"{after}.{name}": storage for name, storage in written.items()}

        self.layout.step(schedule, all_storages, {p: packed_name(schedule, p) for p in schedule.products})
        if beside is not None:
            with self.layout.each_row() as row, self.active(row, t):
                self.move(target(), self.own(beside), row)

    def _beside(self, after: str) -> dict[str, Value]:
        known = self.__dict__.setdefault("_memory", {})
        if after not in known:
            known[after] = self.blocks()
        return known[after]


class _Forward(_Kernel):
    """State in, all time steps, state out; with `save`, states (and products) on the way are stored."""

    def write(self) -> None:
        e = self.e
        state = self.blocks()
        self.move(self.own(state), self.argument("state"))
        with e.loop(0, self.time()) as t:
            self.restart(self.own(state), t)
            if self.variant.save:
                self._store_state(state, t)
            self._step(state, t)
        self.move(self.argument("last"), self.own(state))

    def _store_state(self, state: dict[str, Value], t: Value) -> None:
        e, chunk = self.e, e_index(self.e, self.variant.chunk)
        number = e.div(t, chunk)
        if self.variant.chunk == 1:
            self.move(self.argument("stored", "chunk", number), self.own(state))
            return
        with e.when(e.compare("eq", e.mul(number, chunk), t)):
            self.move(self.argument("stored", "chunk", number), self.own(state))

    def _step(self, state: dict[str, Value], t: Value) -> None:
        layout, plan = self.layout, self.plan

        def storages() -> dict[str | Node, Storage]:
            known = self.leaves(t) | {f"state.{name}": storage for name, storage in self.own(state).items()}
            for name, (shape, scalar) in plan.outputs.items():
                known[name] = layout.at(name, "time lane", math.prod(shape), scalar, t)
            if self.variant.save:
                for name, product in plan.products.items():
                    known[product] = layout.at(name, "time lane", padded(product.size, layout.width), plan.real, t)
            return known

        self.run(plan.forward, storages, ("state", "next"), lambda: self.own(state), t)


class _Reverse(_Kernel):
    """Chunks from the last to the first: states again from the one stored, then every step's gradient backwards."""

    def write(self) -> None:
        e, chunk = self.e, self.variant.chunk
        self.adjoint, self.states = self.blocks(), self.blocks(chunk)
        self.sums = self._sums()
        self.move(self.own(self.adjoint), self.argument("adjoint"))
        time = self.time()
        size = e_index(e, chunk)
        chunks = e.div(e.add(time, e_index(e, chunk - 1)), size)
        with e.loop(0, chunks, down=True) as number:
            first = e.mul(number, size)
            end = e.add(first, size)
            end = e.select(e.compare("slt", end, time), end, time)
            zero = e_index(e, 0)
            self.move(self.own(self.states, zero), self.argument("stored", "chunk", number))
            if chunk > 1:
                self._recompute(first, end)
            with e.loop(first, end, down=True) as t:
                self._step(t, e.sub(t, first))
        self.move(self.argument("first"), self.own(self.adjoint))
        self._finish_sums()

    def _recompute(self, first: Value, end: Value) -> None:
        """States before each step of a chunk, from the state before its first."""
        e = self.e
        with e.loop(first, end) as t:
            index = e.sub(t, first)
            self.restart(self.own(self.states, index), t)
            following = e.add(index, e_index(e, 1))
            with e.when(e.compare("slt", e.add(t, e_index(e, 1)), end)):

                def storages(t: Value = t, index: Value = index) -> dict[str | Node, Storage]:
                    states = self.own(self.states, index)
                    return self.leaves(t) | {f"state.{name}": storage for name, storage in states.items()}

                self.run(
                    self.plan.recompute,
                    storages,
                    ("state", "next"),
                    lambda: self.own(self.states, following),
                    t,
                    keep=True,
                )

    def _step(self, t: Value, index: Value) -> None:
        layout, plan = self.layout, self.plan
        outputs = gradient_outputs(plan)

        def storages() -> dict[str | Node, Storage]:
            known = self.leaves(t)
            known |= {f"state.{name}": s for name, s in self.own(self.states, index).items()}
            known |= {f"adjoint.{name}": s for name, s in self.own(self.adjoint).items()}
            for name, (shape, scalar) in plan.outputs.items():
                known[f"grad.{name}"] = layout.at(f"grad.{name}", "time lane", math.prod(shape), scalar, t)
            for name, product in plan.products.items():
                known[name] = layout.at(name, "time lane", padded(product.size, layout.width), plan.real, t)
            for output in outputs:
                known[output.name] = self._gradient_storage(output, t)
            return known

        for output in outputs:
            if output.kind == "part time" and isinstance(layout, Channel):
                layout.clear_lane_sum(output.name, output.size)
        self.run(plan.reverse, storages, ("adjoint", "before"), lambda: self.own(self.adjoint), t)
        for output in outputs:
            if output.kind == "part time" and isinstance(layout, Channel):
                target = layout.at(output.name, "part time", output.size, output.scalar, t)
                layout.finish_lane_sum(output.name, output.size, target)
        if self.variant.resets:
            with layout.each_row() as row, self.reset(t, row):
                start = {n: replace(s, add=True) for n, s in self.argument("start gradient", "part lane").items()}
                self.move(start, self.own(self.adjoint), row)
                self.move(self.own(self.adjoint), None, row)

    def _gradient_storage(self, output: Output, t: Value) -> Storage:
        layout = self.layout
        if output.kind in self.sums_kept_by(layout):
            return layout.lane_sum_storage(output.name, output.size)  # type: ignore[attr-defined]
        if output.name in self.sums:
            return replace(layout.own(self.sums[output.name], output.size), add=True)
        return layout.at(output.name, output.kind, output.size, output.scalar, t)

    @staticmethod
    def sums_kept_by(layout: Layout) -> tuple[str, ...]:
        """Kinds of output that channels add up across lanes."""
        return ("part time", "part") if isinstance(layout, Channel) else ()

    def _sums(self) -> dict[str, Value]:
        """Memory for gradients of constants, added up over the time steps of an item (channel layout)."""
        layout, sums = self.layout, {}
        if not isinstance(layout, Channel):
            return sums
        for output in gradient_outputs(self.plan):
            if output.kind == "part lane":
                sums[output.name] = layout.block(output.size)
                layout.transfer(layout.own(sums[output.name], output.size), None, output.size)
            if output.kind == "part":
                layout.clear_lane_sum(output.name, output.size)
        return sums

    def _finish_sums(self) -> None:
        layout = self.layout
        if not isinstance(layout, Channel):
            return
        for output in gradient_outputs(self.plan):
            if output.kind not in ("part", "part lane"):
                continue
            target = layout.at(output.name, output.kind, output.size, output.scalar)
            if output.kind == "part lane":
                layout.transfer(target, layout.own(self.sums[output.name], output.size), output.size)
            else:
                layout.finish_lane_sum(output.name, output.size, target)


def e_index(e: Emitter, value: int) -> Value:
    """An index known now."""
    return e.constant(value, I64)


def padded(size: int, width: int) -> int:
    """`size` rounded up to whole vectors."""
    return -(-size // width) * width
