"""Register-tiled products of a matrix that does not change in time with the vectors of some sequences."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from recurra.compiler.codegen.access import Access, Storage, bytes_of
from recurra.compiler.codegen.emitter import I64, Type, Value
from recurra.compiler.frontend.graph import Node
from recurra.compiler.planning.schedule import View


class Products(Access):
    """Writes products into the code of a time step."""

    def product(self, node: Node, matrix: Value, rows: Value | int, tile: int) -> None:
        """node[r, :] = matrix [k, m] applied to its vector, for `rows` rows; m is padded to whole vectors.

        A block of `tile` rows by some vectors of columns is held in registers while k runs.
        """
        e, k = self.e, node.args[0].shape[1]
        out, view = self.storages[node], self._view(node.args[1])
        source = self.storages[view.base.attr if view.base.op == "input" else view.base]
        columns = -(-node.shape[0] // self.width) * self.width
        # tile * vectors sums stay in registers, of which AVX2 has 16: 8 to 12, so that fused products, which take 4
        # cycles and of which 2 begin in each, do not wait for one another. A weight is loaded once for all rows.
        vectors = {1: 8, 2: 6, 3: 4, 4: 3}[tile]
        step = vectors * self.width
        main, rest = columns - columns % step, columns % step // self.width
        for first, last, height in self._row_spans(rows, tile):
            if main:
                # Columns outside, rows inside: a strip of the matrix, k by `step`, stays in the cache for all rows.
                with e.loop(0, main, step) as j, self._rows(first, last, height) as r:
                    self._tile(matrix, source, view, out, r, j, (height, vectors, k, columns))
            if rest:
                with self._rows(first, last, height) as r:
                    self._tile(matrix, source, view, out, r, e.constant(main, I64), (height, rest, k, columns))

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
        e, (tile, vectors, k, columns) = self.e, size
        type = Type(self.real, self.width)
        zero = e.constant(0.0, type)
        sums = [[e.variable(zero) for _ in range(vectors)] for _ in range(tile)]
        offsets = [self._row_offset(row, r, source) for r in range(tile)]
        with e.loop(0, k) as kk:
            # The matrix is packed [k, columns]: what one k needs lies side by side, the next k `columns` further on.
            at = e.add(e.mul(kk, e.constant(columns, I64)), j)
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
