"""How a kernel walks over sequences and lanes, and where in memory things lie: two layouts with one interface.

Channel: one item is a block of neighbouring lanes of one sequence; a vector holds the same value of several lanes.
Head: one item is one lane of a tile of sequences; a vector holds several values of one lane, and matrices that do not
change in time are read once for the whole tile.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from recurra.compiler.codegen.access import Storage
from recurra.compiler.codegen.arguments import Kind
from recurra.compiler.codegen.emitter import I64, PTR, Emitter, Type, Value
from recurra.compiler.codegen.writer import StepWriter
from recurra.compiler.frontend.graph import Node
from recurra.compiler.planning.plan import Plan
from recurra.compiler.planning.schedule import Schedule


class Arguments:
    """A kernel's arguments: an array of pointers and one of integers, both by name, read once at the start."""

    def __init__(self, e: Emitter):
        self._e = e
        self.pointers: dict[str, Value] = {}
        self.integers: dict[str, Value] = {}

    def pointer(self, name: str) -> Value:
        return self._get(name, self.pointers, PTR, "%pointers")

    def integer(self, name: str) -> Value:
        return self._get(name, self.integers, I64, "%integers")

    def _get(self, name: str, known: dict[str, Value], type: Type, array: str) -> Value:
        if name not in known:
            # Read where the function begins, whatever loop asks first: the value then dominates all its uses, and the
            # number of arguments so far is its place in the array that the caller fills in the same order.
            place, value = self._e.fresh("a"), self._e.fresh("arg")
            self._e.entry.append(f"  {place} = getelementptr {type}, ptr {array}, i64 {len(known)}")
            self._e.entry.append(f"  {value} = load {type}, ptr {place}, align 8  ; {name}")
            known[name] = Value(value, type)
        return known[name]


class Layout(ABC):
    """Emits what depends on the layout. `begin` is called once per item, before anything else."""

    rows: int

    def __init__(self, e: Emitter, plan: Plan, width: int):
        self.e, self.plan, self.width = e, plan, width
        self.args = Arguments(e)
        self.scratch_size = 0

    def scratch(self, size: int) -> Value:
        """`size` numbers of the thread's own scratch memory."""
        # Rounded up to 16 numbers, a line of the cache in float32, so that every piece is aligned for whole vectors.
        at = self.scratch_size
        self.scratch_size += -(-size // 16) * 16
        place = self.e.fresh("scratch")
        self.e.entry.append(f"  {place} = getelementptr {self.plan.real}, ptr %scratch, i64 {at}")
        return Value(place, PTR)

    def sum(self, *terms: Value | tuple[Value, int | Value]) -> Value:
        """The sum of terms, each an index or (index, factor)."""
        e, total = self.e, None
        for term in terms:
            value, factor = term if isinstance(term, tuple) else (term, 1)
            if isinstance(factor, int):
                value = value if factor == 1 else e.mul(value, e.constant(factor, I64))
            else:
                value = e.mul(value, factor)
            total = value if total is None else e.add(total, value)
        return total if total is not None else e.constant(0, I64)

    @abstractmethod
    def begin(self, item: Value) -> None:
        """Find out which sequences and lanes `item` stands for."""

    @abstractmethod
    def block(self, size: int, count: int = 1) -> Value:
        """Scratch memory for `count` values of `size` numbers per lane, for the whole item."""

    @abstractmethod
    def block_at(self, block: Value, size: int, index: Value) -> Value:
        """The address of value number `index` of a block."""

    @abstractmethod
    def own(self, block: Value, size: int) -> Storage:
        """A value in scratch memory as storage."""

    @abstractmethod
    def at(self, name: str, kind: Kind, size: int, scalar: str, t: Value | None = None) -> Storage:
        """An argument as storage; `kind` says which axes it has (see `Kind`)."""

    @abstractmethod
    def transfer(self, to: Storage, source: Storage | None, size: int, row: Value | None = None) -> None:
        """Copy a value for all lanes of the item (all rows of the tile, or the one given), or fill it with zeros."""

    @abstractmethod
    def each_row(self) -> Iterator[Value]:
        """A context in which the batch row of the current item is known: `with layout.each_row() as row`."""

    @abstractmethod
    def sequence(self, row: Value | None) -> Value:
        """The number of the sequence in a row."""

    @abstractmethod
    def step(
        self, schedule: Schedule, storages: Callable[[], Mapping[str | Node, Storage]], matrices: Mapping[Node, str]
    ) -> None:
        """One time step of the whole item."""


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


class Head(Layout):
    """Vectorised within a lane, for a tile of `rows` sequences."""

    def __init__(self, e: Emitter, plan: Plan, width: int, rows: int):
        super().__init__(e, plan, width)
        self.rows = rows
        self.tile = min(4, rows)
        self._buffers: dict[Node, Storage] = {}

    def begin(self, item: Value) -> None:
        # Item number = tile of sequences * lanes + lane: neighbouring items read the same sequences.
        e, lanes = self.e, e_constant(self.e, self.plan.lanes)
        self.tile_number = e.div(item, lanes)
        self.lane = e.instruction(I64, f"srem {item}, {lanes.text}")
        self.first = e.mul(self.tile_number, e_constant(e, self.rows))
        left = e.sub(self.args.integer("batch"), self.first)
        # With one row to a tile every tile is full; otherwise the last one has what is left.
        rows = e_constant(e, self.rows)
        self.count = rows if self.rows == 1 else e.select(e.compare("slt", left, rows), left, rows)

    def block(self, size: int, count: int = 1) -> Value:
        return self.scratch(size * count * self.rows)

    def block_at(self, block: Value, size: int, index: Value) -> Value:
        return self.e.offset(block, self.e.mul(index, e_constant(self.e, size * self.rows)), self.plan.real)

    def own(self, block: Value, size: int) -> Storage:
        return Storage(block, self.plan.real, row=e_constant(self.e, size))

    def at(self, name: str, kind: Kind, size: int, scalar: str, t: Value | None = None) -> Storage:
        pointer, lanes, e = self.args.pointer(name), self.plan.lanes, self.e
        if kind in (Kind.TIME, Kind.TIME_LANE, Kind.PART_TIME):
            assert t is not None
            row = self.args.integer(f"{name}:b")
            place = [(self.first, row), (t, self.args.integer(f"{name}:t"))]
            if kind is Kind.TIME_LANE:
                place.append((self.lane, self.args.integer(f"{name}:h")))
            if kind is Kind.PART_TIME:
                place.append((self.lane, self.args.integer(f"{name}:p")))
            return Storage(e.offset(pointer, self.sum(*place), scalar), scalar, row=row)
        if kind is Kind.ONE:
            return Storage(pointer, scalar)
        if kind is Kind.LANE:
            return Storage(e.offset(pointer, self.sum((self.lane, size)), scalar), scalar)
        if kind in (Kind.PART, Kind.PART_LANE):
            # [tiles, L, s]: no row offset, since all sequences of the tile add into the same numbers.
            item = self.sum((self.tile_number, lanes), self.lane)
            return Storage(e.offset(pointer, self.sum((item, size)), scalar), scalar, add=True)
        if kind is Kind.CHUNK:
            assert t is not None
            # Memory is [B, chunks, L, s] and t is the number of the chunk: ((first * chunks + t) * L + lane) * s, and
            # the next sequence lies chunks * L * s further on.
            chunks = self.args.integer("chunks")
            lane = self.sum((self.sum((self.first, chunks), t), lanes), self.lane)
            row = e.mul(chunks, e_constant(e, lanes * size))
        else:
            lane, row = self.sum((self.first, lanes), self.lane), e_constant(e, lanes * size)
        return Storage(e.offset(pointer, self.sum((lane, size)), scalar), scalar, row=row)

    def transfer(self, to: Storage, source: Storage | None, size: int, row: Value | None = None) -> None:
        if row is None:
            with self.e.loop(0, self.count) as r:
                self._transfer_row(to, source, size, r)
        else:
            self._transfer_row(to, source, size, row)

    def _transfer_row(self, to: Storage, source: Storage | None, size: int, row: Value) -> None:
        e = self.e
        writer = StepWriter(e, Schedule([], [], {}, {}), {}, self.plan.real, 1, False)

        def address(s: Storage, i: Value) -> Value:
            return e.offset(s.pointer, i if s.row is None else self.sum(i, (row, s.row)), s.scalar)

        # How many values there are is known now: a loop for whole vectors, one for the rest, either left out if empty.
        main = size - size % self.width
        for start, stop, width in ((0, main, self.width), (main, size, 1)):
            if start < stop:
                with e.loop(start, stop, width) as i:
                    value = e.constant(0.0, Type(self.plan.real, width))
                    if source is not None:
                        value = writer.load(address(source, i), source.scalar, width)
                    if to.add:
                        value = e.add(value, writer.load(address(to, i), to.scalar, width))
                    writer.store(value, address(to, i), to.scalar)

    @contextmanager
    def each_row(self) -> Iterator[Value]:  # type: ignore[override]
        with self.e.loop(0, self.count) as row:
            yield row

    def sequence(self, row: Value | None) -> Value:
        return self.first if row is None else self.e.add(self.first, row)

    def step(
        self, schedule: Schedule, storages: Callable[[], Mapping[str | Node, Storage]], matrices: Mapping[Node, str]
    ) -> None:
        known = dict(storages())
        for node in schedule.buffers:
            if node not in known:
                known[node] = self._buffer(node)
        writer = StepWriter(self.e, schedule, known, self.plan.real, self.width, False)
        # Products run over all rows of the tile at once, so that a matrix is read once for all of them. What lies
        # between two products runs row by row: all loops of one row, whose values are then still in the cache.
        steps = list(schedule.steps)
        while steps:
            if isinstance(steps[0], Node):
                node = steps.pop(0)
                per_lane = self.plan.leaves[_matrix_leaf(node)].per_lane
                matrix = self.at(
                    matrices[node], Kind.LANE if per_lane else Kind.ONE, _packed_size(node, self.width), self.plan.real
                )
                writer.product(node, matrix.pointer, 1 if self.rows == 1 else self.count, self.tile)
                continue
            with self.each_row() as row:
                writer.row = row if self.rows > 1 else None
                while steps and not isinstance(steps[0], Node):
                    writer.loop(steps.pop(0))
                writer.row = None

    def _buffer(self, node: Node) -> Storage:
        """Scratch memory for a value of one time step, padded to whole vectors; zero at first if parts leave gaps."""
        if node not in self._buffers:
            size = -(-node.size // self.width) * self.width
            pointer = self.scratch(size * self.rows)
            if node.op == "assemble" and sum(part.size for part in node.args) < node.size:
                self.e.clear_at_entry(pointer, size * self.rows * (8 if self.plan.real == "double" else 4))
            self._buffers[node] = Storage(pointer, self.plan.real, row=e_constant(self.e, size))
        return self._buffers[node]


def e_constant(e: Emitter, value: int) -> Value:
    """An index known now."""
    return e.constant(value, I64)


def _matrix_leaf(product: Node) -> str:
    node = product.args[0]
    while node.op != "input":
        node = node.args[0]
    return node.attr


def _packed_size(product: Node, width: int) -> int:
    """Numbers in a product's matrix after packing: [k, m], m padded to whole vectors."""
    m, k = product.args[0].shape
    return k * (-(-m // width) * width)
