"""Sums of outer products: left^T right of two matrices that lie row by row, as the gradient of a weight is.

Both are read as they lie. What a tile of sums needs is copied to scratch memory, where it fits into the first-level
cache and each number is followed by the next one needed.
"""

from __future__ import annotations

from dataclasses import dataclass

from recurra.compiler.codegen.emitter import I64, PTR, Emitter, Type, Value
from recurra.compiler.codegen.kernels import SHARE, Kernel

BLOCK = 128
"""Rows that are summed between one reading of the sums and their writing: few enough for the first-level cache to hold
them of one tile's columns."""
STRIP = 512
"""Columns of the left matrix that are copied at once: as many as the second-level cache holds beside all else."""
# Sums, one vector register each, with those of the right matrix and one more: 32 registers of 64 bytes, else 16. There
# are 8 or more, since fused products take 4 cycles and 2 begin in each.
_SHAPES = {16: ((8, 3), (4, 4), (8, 2)), 8: ((4, 3), (4, 2)), 4: ((4, 3), (4, 2))}


@dataclass(frozen=True)
class Sums:
    """A tile of sums that is held in registers: columns of the left matrix by vectors of columns of the right one."""

    left: int
    vectors: int
    width: int

    @staticmethod
    def of(columns: int, width: int) -> Sums:
        """The one that leaves least of its registers empty for that many columns of the right matrix."""
        tiles = [Sums(left, vectors, width) for left, vectors in _SHAPES[width]]
        return min(tiles, key=lambda t: (-(-columns // t.right) * t.right, -t.left * t.vectors))

    @property
    def right(self) -> int:
        return self.vectors * self.width

    def padded(self, m: int, n: int) -> int:
        """Sums that are computed for m columns of the left matrix by n of the right one, in whole tiles."""
        return -(-m // self.left) * self.left * -(-n // self.right) * self.right


def write_outer(tile: Sums) -> Kernel:
    """The kernel `run(pointers, integers, scratch, first, last)`; item i sums the rows from i * part on.

    It adds to `out`, [items, m, n] with m and n rounded up to whole tiles.
    """
    e = Emitter()
    _Outer(e, tile).write()
    ir = e.function("run", [("pointers", PTR), ("integers", PTR), ("scratch", PTR), ("first", I64), ("last", I64)])
    return Kernel(ir + SHARE, list(POINTERS), list(INTEGERS), 2 * BLOCK * STRIP)


POINTERS = ("left", "right", "out")
INTEGERS = ("rows", "part", "m", "n", "left_row", "right_row", "out_row", "out_item")
"""`left_row` and so on are the numbers from one row, or item, to the next."""


class _Outer:
    def __init__(self, e: Emitter, tile: Sums):
        self.e, self.tile, self.vector = e, tile, Type("float", tile.width)

    def write(self) -> None:
        e = self.e
        read = lambda of, i, type: e.load(e.offset(Value(of, PTR), self.number(i), type.scalar), type, 8)  # noqa: E731
        self.left, self.right, out = (read("%pointers", i, PTR) for i in range(len(POINTERS)))
        given = {name: read("%integers", i, I64) for i, name in enumerate(INTEGERS)}
        self.m, self.n, self.rows_of = given["m"], given["n"], given
        self.near = self.place(Value("%scratch", PTR), self.number(BLOCK * STRIP))
        across = STRIP // self.tile.right * self.tile.right
        with e.loop(Value("%first", I64), Value("%last", I64)) as item:
            begin = e.mul(item, given["part"])
            end = self.least(e.add(begin, given["part"]), given["rows"])
            self.sums = self.place(out, e.mul(item, given["out_item"]))
            with e.loop(0, self.m, STRIP) as i, e.loop(0, self.n, across) as j, e.loop(begin, end, BLOCK) as row:
                strips = (i, self.least(e.add(i, self.number(STRIP)), self.m))
                strips += (j, self.least(e.add(j, self.number(across)), self.n))
                self.block(*strips, row, self.least(e.sub(end, row), self.number(BLOCK)))

    def block(self, top: Value, bottom: Value, start: Value, stop: Value, row: Value, count: Value) -> None:
        """Add what `count` rows from `row` on give to the sums [top to bottom, start to stop]."""
        e, tile, scratch = self.e, self.tile, Value("%scratch", PTR)
        self.copy("left", (top, bottom), row, count, 1, scratch)
        self.copy("right", (start, stop), row, count, tile.vectors, self.near)
        with e.loop(start, stop, tile.right) as j:
            panel = self.place(self.near, e.mul(e.sub(j, start), self.number(BLOCK)))
            with e.loop(top, bottom, tile.left) as i:
                self.add_tile(i, j, e.sub(i, top), panel, count)

    def copy(self, side: str, strip: tuple[Value, Value], row: Value, count: Value, vectors: int, to: Value) -> None:
        """Lay out a strip of columns in panels of some vectors each, [columns / panel, BLOCK, panel], row after row."""
        e, source, (start, stop) = self.e, getattr(self, side), strip
        wide = self.number(vectors * self.tile.width)
        whole = e.sub(stop, e.instruction(I64, f"srem {e.sub(stop, start)}, {wide.text}"))
        with e.loop(0, count) as k:
            line = e.mul(e.add(row, k), self.rows_of[f"{side}_row"])
            for begin, end in ((start, whole), (whole, stop)):
                with e.loop(begin, end, vectors * self.tile.width) as i:
                    at = e.add(e.mul(e.sub(i, start), self.number(BLOCK)), e.mul(k, wide))
                    for v in range(vectors):
                        beyond = self.number(v * self.tile.width)
                        column = e.add(i, beyond)
                        pointer = self.place(source, e.add(line, column))
                        full = end is whole
                        numbers = e.load(pointer, self.vector, 4) if full else self.masked(pointer, e.sub(stop, column))
                        e.store(numbers, self.place(to, e.add(at, beyond)))

    def add_tile(self, i: Value, j: Value, within: Value, near: Value, count: Value) -> None:
        """Sums [i to i + tile.left, j to j + tile.right]; the left columns begin `within` their strip."""
        e, tile, scratch = self.e, self.tile, Value("%scratch", PTR)
        places = [
            self.place(self.sums, e.add(e.mul(e.add(i, self.number(r)), self.rows_of["out_row"]), e.add(j, at)))
            for r in range(tile.left)
            for at in (self.number(v * tile.width) for v in range(tile.vectors))
        ]
        sums = [e.variable(e.load(place, self.vector)) for place in places]
        inside = e.bitwise("and", within, self.number(tile.width - 1))
        panel = e.add(e.mul(e.sub(within, inside), self.number(BLOCK)), inside)
        with e.loop(0, count) as k:
            right = self.place(near, e.mul(k, self.number(tile.right)))
            vectors = [e.load(self.place(right, self.number(v * tile.width)), self.vector) for v in range(tile.vectors)]
            left = self.place(scratch, e.add(panel, e.mul(k, self.number(tile.width))))
            for r in range(tile.left):
                x = e.splat(e.load(self.place(left, self.number(r)), Type("float")), tile.width)
                for v, vector in enumerate(vectors):
                    total = sums[r * tile.vectors + v]
                    e.set(total, e.fma(x, vector, e.get(total)))
        for place, total in zip(places, sums, strict=True):
            e.store(e.get(total), place)

    def masked(self, pointer: Value, left: Value) -> Value:
        """A vector of which only `left` numbers are there; zeros behind them, which are not read."""
        e, type = self.e, self.vector
        lanes = Value(f"<{', '.join(f'i64 {i}' for i in range(type.width))}>", Type("i64", type.width))
        flags = e.compare("sgt", e.splat(left, type.width), lanes)
        name = f"@llvm.masked.load.{type.suffix}.p0"
        e.declarations.add(f"declare {type} {name}(ptr, i32 immarg, {flags.type}, {type})")
        return e.instruction(type, f"call {type} {name}({pointer}, i32 4, {flags}, {type} zeroinitializer)")

    def place(self, pointer: Value, at: Value) -> Value:
        return self.e.offset(pointer, at, "float")

    def number(self, value: int) -> Value:
        return self.e.constant(value, I64)

    def least(self, a: Value, b: Value) -> Value:
        return self.e.select(self.e.compare("slt", a, b), a, b)
