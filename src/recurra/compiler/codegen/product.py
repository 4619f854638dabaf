"""Register-tiled products of a matrix that does not change in time with the vectors of some sequences."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from recurra.compiler.codegen.access import Access, Storage, bytes_of
from recurra.compiler.codegen.emitter import I64, Type, Value
from recurra.compiler.frontend.graph import Node
from recurra.compiler.planning.schedule import View

# By registers there are: rows of a tile, and the vectors of columns that go with them. The sums, one register each, are
# 8 or more: fused products take 4 cycles, 2 begin in each, and none is to wait for another. The more rows, the less
# often a weight is loaded from the second-level cache, which gives less in a cycle than can be computed with.
_TILES = {16: {1: 8, 2: 6, 3: 4, 4: 3}, 32: {1: 8, 2: 8, 3: 8, 4: 6, 5: 5, 6: 4, 7: 3, 8: 3}}


@dataclass(frozen=True)
class Tile:
    """What is held in registers while a product runs along its vectors: rows by vectors of columns."""

    rows: int
    vectors: int

    @staticmethod
    def of(rows: int, width: int, real: str) -> Tile:
        """The one for `rows` sequences: as even a part of them as can be."""
        known = _TILES[32 if width * bytes_of(real) == 64 else 16]
        most = max(known)
        even = -(-rows // -(-rows // most))
        return Tile(even, known[even])

    def panels(self, columns: int, width: int) -> tuple[int, int, int]:
        """How columns, a multiple of the width, are cut: whole panels, columns in each, columns that are left."""
        wide = self.vectors * width
        return columns // wide, wide, columns % wide


class Products(Access):
    """Writes products into the code of a time step."""

    def product(self, node: Node, matrix: Value, rows: Value | int, tile: Tile) -> None:
        """node[r, :] = matrix applied to its vector, for `rows` rows.

        The matrix is packed in panels of columns, each [k, columns of a tile]: what one k needs lies side by side, and
        what the next one needs behind it, so that a panel is read from its beginning to its end.
        """
        e, k = self.e, node.args[0].shape[1]
        out, view = self.storages[node], self._view(node.args[1])
        source = self.storages[view.base.attr if view.base.op == "input" else view.base]
        panels, wide, rest = tile.panels(-(-node.shape[0] // self.width) * self.width, self.width)
        for first, last, height in self._row_spans(rows, tile.rows):
            if panels:
                # Panels outside, rows inside: a panel stays in the cache for all rows.
                with e.loop(0, panels * wide, wide) as j, self._rows(first, last, height) as r:
                    self._tile(matrix, source, view, out, r, j, (height, tile.vectors, k))
            if rest:
                j = e.constant(panels * wide, I64)
                with self._rows(first, last, height) as r:
                    self._tile(matrix, source, view, out, r, j, (height, rest // self.width, k))

    def _row_spans(self, rows: Value | int, tile: int) -> list[tuple[Value | int, Value | int, int]]:
        """Blocks of `tile` rows, and the rows that are left one by one."""
        if isinstance(rows, int):
            return [(0, rows, 1)]
        e = self.e
        left = e.instruction(I64, f"srem {rows}, {tile}")
        main = e.sub(rows, left)
        return [(0, main, tile), (main, rows, 1)] if tile > 1 else [(0, rows, 1)]

    @contextmanager
    def _rows(self, first: Value | int, last: Value | int, height: int) -> Iterator[Value | None]:
        if last == 1:
            yield None
        else:
            with self.e.loop(first, last, height) as r:
                yield r

    def _tile(
        self, matrix: Value, source: Storage, view: View, out: Storage, row: Value | None, j: Value, size: tuple
    ) -> None:
        e, (tile, vectors, k) = self.e, size
        type = Type(self.real, self.width)
        zero = e.constant(0.0, type)
        sums = [[e.variable(zero) for _ in range(vectors)] for _ in range(tile)]
        offsets = [self._row_offset(row, r, source) for r in range(tile)]
        with e.loop(0, k) as kk:
            # The panel of column j begins after j columns of k numbers each.
            at = e.add(e.mul(kk, e.constant(vectors * self.width, I64)), e.mul(j, e.constant(k, I64)))
            weights = [
                e.load(e.offset(matrix, e.add(at, e.constant(v * self.width, I64)), self.real), type)
                for v in range(vectors)
            ]
            for r in range(tile):
                element = e.add(kk, e.constant(view.offset, I64))
                element = element if offsets[r] is None else e.add(element, offsets[r])
                x = e.splat(self.load(e.offset(source.pointer, element, source.scalar), source.scalar, 1), self.width)
                for v in range(vectors):
                    e.set(sums[r][v], e.fma(x, weights[v], e.get(sums[r][v])))
        for r in range(tile):
            offset = self._row_offset(row, r, out)
            for v in range(vectors):
                at = e.add(j, e.constant(v * self.width, I64))
                at = at if offset is None else e.add(at, offset)
                e.store(e.get(sums[r][v]), e.offset(out.pointer, at, self.real), bytes_of(self.real))

    def _row_offset(self, row: Value | None, r: int, storage: Storage) -> Value | None:
        # None: one row, or a vector that all rows share (an input per lane and time step only).
        if row is None or storage.row is None:
            return None
        return self.e.mul(self.e.add(row, self.e.constant(r, I64)), storage.row)
