"""The head layout: one item is one lane of a tile of sequences, a vector several values of that lane.

Matrices that do not change in time are read once for the whole tile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from recurra.compiler.codegen.access import Storage
from recurra.compiler.codegen.arguments import Kind
from recurra.compiler.codegen.emitter import I64, Emitter, Type, Value
from recurra.compiler.codegen.layout import Layout, e_constant
from recurra.compiler.codegen.product import Tile
from recurra.compiler.codegen.writer import StepWriter
from recurra.compiler.frontend.graph import Node
from recurra.compiler.planning.plan import Plan
from recurra.compiler.planning.schedule import Schedule


class Head(Layout):
    """Vectorised within a lane, for a tile of `rows` sequences."""

    def __init__(self, e: Emitter, plan: Plan, width: int, rows: int):
        super().__init__(e, plan, width)
        self.rows = rows
        self.tile = Tile.of(rows, width, plan.real)
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
            onward = self.args.integer(f"{name}:t")
            onward = e.sub(e_constant(e, 0), onward) if self.down else onward
            return Storage(e.offset(pointer, self.sum(*place), scalar), scalar, row=row, onward=onward)
        if kind is Kind.ONE:
            return Storage(pointer, scalar)
        if kind is Kind.LANE:
            return Storage(e.offset(pointer, self.sum((self.lane, size)), scalar), scalar)
        if kind in (Kind.PART, Kind.PART_LANE):
            # [tiles, L, s]: no row offset, since all sequences of the tile add into the same numbers.
            item = self.sum((self.tile_number, lanes), self.lane)
            return Storage(e.offset(pointer, self.sum((item, size)), scalar), scalar, add=True)
        onward = None
        if kind is Kind.CHUNK:
            assert t is not None
            # Memory is [B, chunks, L, s] and t is the number of the chunk: ((first * chunks + t) * L + lane) * s, and
            # the next sequence lies chunks * L * s further on.
            chunks = self.args.integer("chunks")
            lane = self.sum((self.sum((self.first, chunks), t), lanes), self.lane)
            row = e.mul(chunks, e_constant(e, lanes * size))
            onward = e_constant(e, -lanes * size if self.down else lanes * size)
        else:
            lane, row = self.sum((self.first, lanes), self.lane), e_constant(e, lanes * size)
        return Storage(e.offset(pointer, self.sum((lane, size)), scalar), scalar, row=row, onward=onward)

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
                        writer.fetch_ahead(source, address(source, i), width)
                        value = writer.load(address(source, i), source.scalar, width)
                    if to.add:
                        value = e.add(value, writer.load(address(to, i), to.scalar, width))
                    writer.fetch_ahead(to, address(to, i), width, write=True)
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


def _matrix_leaf(product: Node) -> str:
    node = product.args[0]
    while node.op != "input":
        node = node.args[0]
    return node.attr


def _packed_size(product: Node, width: int) -> int:
    """Numbers in a product's matrix after packing: k by m, m padded to whole vectors."""
    m, k = product.args[0].shape
    return k * (-(-m // width) * width)
