"""The channel layout: one item is a block of neighbouring lanes of one sequence, a vector the same value of several."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from recurra.compiler.codegen.access import Storage
from recurra.compiler.codegen.arguments import Kind
from recurra.compiler.codegen.emitter import I64, PTR, Emitter, Type, Value
from recurra.compiler.codegen.layout import Layout
from recurra.compiler.codegen.writer import StepWriter
from recurra.compiler.frontend.graph import Node
from recurra.compiler.planning.plan import Plan
from recurra.compiler.planning.schedule import Schedule


class Channel(Layout):
    """Vectorised across lanes."""

    rows = 1

    def __init__(self, e: Emitter, plan: Plan, width: int, pitch: int):
        super().__init__(e, plan, width)
        self.pitch = pitch
        self._lane: Value | None = None
        self._width = width
        self._buffers: dict[Node, dict[int, Value]] = {}
        self._sums: dict[str, Value] = {}

    def begin(self, item: Value) -> None:
        # Item number = sequence * blocks + block of lanes. The last block may hold fewer than `block` lanes.
        e, blocks, block = self.e, self.args.integer("blocks"), self.args.integer("block")
        self.sequence_number = e.div(item, blocks)
        self.block_number = e.instruction(I64, f"srem {item}, {blocks.text}")
        self.first = e.mul(self.block_number, block)
        left = e.sub(e.constant(self.plan.lanes, I64), self.first)
        self.count = e.select(e.compare("slt", left, block), left, block)

    def block(self, size: int, count: int = 1) -> Value:
        return self.scratch(size * count * self.pitch)

    def block_at(self, block: Value, size: int, index: Value) -> Value:
        return self.e.offset(block, self.e.mul(index, self.e.constant(size * self.pitch, I64)), self.plan.real)

    def _lanes_at(self, pointer: Value, scalar: str, *terms: Value | tuple[Value, int | Value]) -> Value:
        terms = terms if self._lane is None else (*terms, self._lane)
        return self.e.offset(pointer, self.sum(*terms), scalar) if terms else pointer

    def own(self, block: Value, size: int) -> Storage:  # noqa: ARG002
        # Scratch is laid out [value, lane of the block]: as memory outside, but with `pitch` lanes instead of all.
        return Storage(self._lanes_at(block, self.plan.real), self.plan.real, self.pitch, True)

    def at(self, name: str, kind: Kind, size: int, scalar: str, t: Value | None = None) -> Storage:
        pointer, b, lanes = self.args.pointer(name), self.sequence_number, self.plan.lanes
        if kind in (Kind.TIME, Kind.TIME_LANE):
            assert t is not None
            place = [(b, self.args.integer(f"{name}:b")), (t, self.args.integer(f"{name}:t"))]
            if kind is Kind.TIME:
                return Storage(self.e.offset(pointer, self.sum(*place), scalar), scalar)
            return Storage(self._lanes_at(pointer, scalar, *place, self.first), scalar, lanes, True)
        if kind is Kind.PART_TIME:
            assert t is not None
            place = [(b, self.args.integer(f"{name}:b")), (t, self.args.integer(f"{name}:t"))]
            # Every block of lanes adds to an input that all lanes share: a part of its own, summed by the caller.
            place.append((self.block_number, self.args.integer(f"{name}:p")))
            return Storage(self.e.offset(pointer, self.sum(*place), scalar), scalar)
        if kind is Kind.PART:
            item = self.sum((b, self.args.integer("blocks")), self.block_number)
            return Storage(self.e.offset(pointer, self.sum((item, size)), scalar), scalar)
        if kind is Kind.ONE:
            return Storage(pointer, scalar)
        if kind is Kind.LANE:
            return Storage(self._lanes_at(pointer, scalar, self.first), scalar, lanes, True)
        if kind is Kind.CHUNK:
            # t is the number of the chunk here: [B, chunks] is walked as if it were one axis of sequences.
            assert t is not None
            b = self.sum((b, self.args.integer("chunks")), t)
        return Storage(self._lanes_at(pointer, scalar, (b, size * lanes), self.first), scalar, lanes, True)

    def transfer(self, to: Storage, source: Storage | None, size: int, row: Value | None = None) -> None:  # noqa: ARG002
        e = self.e
        writer = StepWriter(e, Schedule([], [], {}, {}), {}, self.plan.real, 1, True)
        with e.loop(0, size) as i:
            for start, stop, width in self._lane_spans():
                with e.loop(start, stop, width) as d:

                    def address(s: Storage, d: Value = d) -> Value:
                        return e.offset(s.pointer, self.sum((i, s.scale), d), s.scalar)

                    value = e.constant(0.0, Type(self.plan.real, width))
                    if source is not None:
                        value = writer.load(address(source), source.scalar, width)
                    if to.add:
                        value = e.add(value, writer.load(address(to), to.scalar, width))
                    writer.store(value, address(to), to.scalar)

    def _lane_spans(self) -> Iterator[tuple[Value | int, Value, int]]:
        e = self.e
        # `block` is a multiple of the width, so if the lanes are one as well every block is, and no rest is emitted.
        if self.plan.lanes % self.width == 0:
            yield 0, self.count, self.width
            return
        # The width is a power of two: its negative as a mask rounds down to whole vectors.
        main = e.bitwise("and", self.count, e.constant(-self.width, I64))
        yield 0, main, self.width
        yield main, self.count, 1

    @contextmanager
    def each_row(self) -> Iterator[Value | None]:  # type: ignore[override]
        yield None

    def sequence(self, row: Value | None) -> Value:  # noqa: ARG002
        return self.sequence_number

    def lane_sum(self, name: str, size: int) -> Value:
        """Memory in which the lanes of a block add up values that they share; one vector per value."""
        if name not in self._sums:
            self._sums[name] = self.scratch(size * self.width)
        return self._sums[name]

    def clear_lane_sum(self, name: str, size: int) -> None:
        e, memory = self.e, self.lane_sum(name, size)
        with e.loop(0, size * self.width, self.width) as i:
            e.store(e.constant(0.0, Type(self.plan.real, self.width)), e.offset(memory, i, self.plan.real))

    def finish_lane_sum(self, name: str, size: int, to: Storage) -> None:
        e, memory, real = self.e, self.lane_sum(name, size), self.plan.real
        with e.loop(0, size) as i:
            at = e.offset(memory, e.mul(i, e.constant(self.width, I64)), real)
            total = e.sum_elements(e.load(at, Type(real, self.width)))
            e.store(total, e.offset(to.pointer, i, real))

    def lane_sum_storage(self, name: str, size: int) -> Storage:
        return Storage(self.lane_sum(name, size), self.plan.real, self.width, True, add=True)

    def step(
        self,
        schedule: Schedule,
        storages: Callable[[], Mapping[str | Node, Storage]],
        matrices: Mapping[Node, str],  # noqa: ARG002
    ) -> None:
        # The same step is written twice: for whole vectors, and for the lanes that are left, one by one. While
        # `_lane` is set, every address that `storages` asks for includes it.
        for start, stop, width in self._lane_spans():
            with self.e.loop(start, stop, width) as d:
                self._lane = d
                known = dict(storages())
                self._lane = None
                for node in schedule.buffers:
                    known[node] = Storage(self._buffer(node, width), self.plan.real, width, True)
                writer = StepWriter(self.e, schedule, known, self.plan.real, width, True)
                for loop in schedule.steps:
                    assert not isinstance(loop, Node)
                    writer.loop(loop)

    def _buffer(self, node: Node, width: int) -> Value:
        """A few vectors on the stack, which the compiler keeps in registers where it can; zero at first."""
        known = self._buffers.setdefault(node, {})
        if width not in known:
            name, type = self.e.fresh("buffer"), f"[{node.size * width} x {self.plan.real}]"
            self.e.entry.append(f"  {name} = alloca {type}, align 64")
            if node.op == "assemble":
                self.e.entry.append(f"  store {type} zeroinitializer, ptr {name}, align 64")
            known[width] = Value(name, PTR)
        return known[width]
