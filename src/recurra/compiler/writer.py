"""Writes the LLVM IR of one time step from its schedule: loops, reductions and register-tiled products."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

from recurra.compiler.elementary import ELEMENTARY
from recurra.compiler.emitter import I64, Emitter, Type, Value
from recurra.compiler.graph import REDUCTIONS, Node
from recurra.compiler.schedule import Loop, Place, Schedule, View


@dataclass(frozen=True)
class Storage:
    """Memory that holds a leaf, an output or a buffer, at the current item and time step."""

    pointer: Value
    scalar: str
    """float, double, bfloat, half, or i8 for booleans."""
    scale: int = 1
    """Elements of memory from one index to the next."""
    lanes: bool = False
    """Whether neighbouring lanes lie side by side; otherwise all lanes read the same."""
    row: Value | None = None
    """Elements of memory from one batch row of a tile to the next."""
    add: bool = False
    """Whether writing adds to what is there."""


class StepWriter:
    """Emits the steps of a schedule, for `lanes` vectors of lanes at once or vectorised within the lane."""

    def __init__(
        self, e: Emitter, schedule: Schedule, storages: Mapping[str | Node, Storage], real: str, width: int, lanes: bool
    ):
        self.e, self.schedule, self.storages = e, schedule, storages
        self.real, self.width, self.lanes = real, width, lanes
        self.row: Value | None = None

    # --- loops ----------------------------------------------------------------------------------------------------
    def loop(self, loop: Loop) -> None:
        """The loop nest of one row."""
        views = {v for node in loop.nodes + loop.reductions for v in map(self._view, node.args)}
        computed = set(loop.nodes)
        views = sorted((v for v in views if v.base not in computed), key=lambda v: (v.base.number, v.offset, v.strides))
        for reduction in loop.reductions:
            if reduction.attr != (len(loop.shape) - 1,):
                self._fill(reduction)
        self._nest(loop, views, [], {})

    def _nest(self, loop: Loop, views: list[View], index: list[Value], memo: dict[View | Node, Value]) -> None:
        """Open the loops one by one; load every operand as far out as its strides allow."""
        memo = memo | {v: self._load(v, index, 1) for v in views if v not in memo and self._level(v) == len(index)}
        if len(index) < len(loop.shape) - 1:
            with self.e.loop(0, loop.shape[len(index)]) as i:
                self._nest(loop, views, [*index, i], memo)
        elif not loop.shape:
            self._body(loop, views, [], memo, self.width if self.lanes else 1, {})
        else:
            self._innermost(loop, views, index, memo)

    def _innermost(self, loop: Loop, views: list[View], index: list[Value], memo: dict) -> None:
        last, size = len(loop.shape) - 1, loop.shape[-1]
        ending = [r for r in loop.reductions if last in r.attr]
        totals: dict[Node, Value] = {}
        for start, stop, width in self._spans(size):
            sums = {r: self.e.variable(self._identity(r.op, width)) for r in ending}
            with self.e.loop(start, stop, 1 if self.lanes else width) as i:
                self._body(loop, views, [*index, i], memo, width, sums)
            for r, variable in sums.items():
                total = self.e.get(variable)
                total = total if self.lanes else self._across(r.op, total)
                totals[r] = self._combine(r.op, totals[r], total) if r in totals else total
        for r, total in totals.items():
            outer = [i for axis, i in enumerate(index) if axis not in r.attr]
            target = replace(self.storages[r], add=len(r.attr) > 1)
            self._store(total, target, self._row_major_index(r, outer), 0, r.op)

    def _spans(self, size: int) -> Iterator[tuple[int, int, int]]:
        """(start, stop, vector width) pieces of the innermost axis."""
        if self.lanes:
            yield 0, size, self.width
            return
        width = self.width
        while width > size:
            width //= 2
        main = size - size % width
        yield 0, main, width
        if main < size:
            yield main, size, 1

    def _body(self, loop: Loop, views: list[View], index: list[Value], memo: dict, width: int, sums: dict) -> None:
        """All nodes at one index."""
        memo = memo | {v: self._load(v, index, width) for v in views if v not in memo}

        def value(view: View) -> Value:
            found = memo[view.base] if view.base in memo else memo[view]
            return self.e.splat(found, width)

        for node in loop.nodes:
            memo[node] = self._compute(node, [value(self._view(arg)) for arg in node.args], width)
            if node in self.storages:
                place = self.schedule.views[node]
                self._write(memo[node], self.storages[node], Place(node, 0, place.strides), index)
            for place in self.schedule.places.get(node, []):
                self._write(memo[node], self.storages[place.target], place, index)
        for r in loop.reductions:
            term = value(self._view(r.args[0]))
            if r in sums:
                self.e.set(sums[r], self._combine(r.op, self.e.get(sums[r]), term))
            else:
                kept = [i for axis, i in enumerate(index) if axis not in r.attr]
                stride = (self.schedule.views[r].strides or (0,))[-1]
                target = replace(self.storages[r], add=True)
                self._store(term, target, self._row_major_index(r, kept), stride, r.op)

    def _fill(self, reduction: Node) -> None:
        """Set the storage of a reduction to its neutral element."""
        one = Loop(reduction.shape)
        storage = self.storages[reduction]

        def fill(index: list[Value]) -> None:
            if len(index) < len(one.shape):
                with self.e.loop(0, one.shape[len(index)]) as i:
                    fill([*index, i])
            else:
                neutral = self._identity(reduction.op, self.width if self.lanes else 1)
                self._store(neutral, replace(storage, add=False), self._row_major_index(reduction, index), 0)

        fill([])

    # --- memory ---------------------------------------------------------------------------------------------------
    def _view(self, node: Node) -> View:
        return self.schedule.views[node]

    def _level(self, view: View) -> int:
        """How many loops must be open before an operand can be loaded; 0 for numbers known now."""
        return max((i + 1 for i, stride in enumerate(view.strides) if stride), default=0)

    def _element(self, offset: int, strides: tuple[int, ...], index: list[Value]) -> Value:
        total = self.e.constant(offset, I64)
        for i, stride in zip(index, strides, strict=False):
            if stride:
                term = i if stride == 1 else self.e.mul(i, self.e.constant(stride, I64))
                total = term if total.text == "0" else self.e.add(total, term)
        return total

    def _row_major_index(self, node: Node, index: list[Value]) -> Value:
        return self._element(0, self.schedule.views[node].strides, index)

    def _address(self, storage: Storage, element: Value) -> Value:
        e = self.e
        at = element if storage.scale == 1 else e.mul(element, e.constant(storage.scale, I64))
        if storage.row is not None and self.row is not None:
            at = e.add(at, e.mul(self.row, storage.row))
        return storage.pointer if at.text == "0" else e.offset(storage.pointer, at, storage.scalar)

    def _load(self, view: View, index: list[Value], width: int) -> Value:
        """An operand: a scalar if it is the same for the whole vector, else a vector."""
        e, base = self.e, view.base
        if base.op == "constant":
            return e.constant(float(base.attr), Type(self.real))
        storage = self.storages[base.attr if base.op == "input" else base]
        address = self._address(storage, self._element(view.offset, view.strides, index))
        step = view.strides[-1] if view.strides and len(index) == len(view.strides) else 0
        several = storage.lanes if self.lanes else step != 0
        count = (self.width if self.lanes else width) if several else 1
        if not self.lanes and count > 1 and step * storage.scale != 1:
            parts = [
                self.load(
                    e.offset(address, e.constant(i * step * storage.scale, I64), storage.scalar), storage.scalar, 1
                )
                for i in range(count)
            ]
            loaded = self._join(parts)
        else:
            loaded = self.load(address, storage.scalar, count)
        if base.is_bool and loaded.type.is_float:
            return e.compare("une", loaded, e.constant(0.0, loaded.type))
        return loaded

    def load(self, address: Value, scalar: str, count: int) -> Value:
        """`count` neighbours in the type of arithmetic; booleans as i1."""
        e = self.e
        raw = e.load(address, Type({"bfloat": "i16", "half": "half"}.get(scalar, scalar), count), _bytes(scalar))
        if scalar == "i8":
            return e.compare("ne", raw, e.constant(0, raw.type))
        if scalar == "bfloat":
            wide = e.bitwise("shl", e.convert("zext", raw, "i32"), e.constant(16, raw.type.of("i32")))
            return e.convert("bitcast", wide, "float")
        return e.convert("fpext", raw, self.real)

    def store(self, value: Value, address: Value, scalar: str) -> None:
        """In the storage type, rounded to nearest even."""
        e = self.e
        if scalar == "bfloat":
            bits = e.convert("bitcast", value, "i32")
            one, half = e.constant(1, bits.type), e.constant(0x7FFF, bits.type)
            odd = e.bitwise("and", e.bitwise("lshr", bits, e.constant(16, bits.type)), one)
            rounded = e.bitwise("lshr", e.add(bits, e.add(half, odd)), e.constant(16, bits.type))
            nan = e.compare("uno", value, value)
            value = e.convert("trunc", e.select(nan, e.constant(0x7FC0, bits.type), rounded), "i16")
        elif scalar == "half":
            value = e.convert("fptrunc", value, "half")
        e.store(value, address, _bytes(scalar))

    def _write(self, value: Value, storage: Storage, place: Place, index: list[Value]) -> None:
        if not value.type.is_float:
            value = self._as_real(value)
        element = self._element(place.offset, place.strides, index)
        self._store(value, storage, element, place.strides[-1] if place.strides else 0)

    def _store(self, value: Value, storage: Storage, element: Value, step: int, op: str = "sum") -> None:
        """Write (or add) a value; across the vector, elements lie `step` indices apart."""
        e, address = self.e, self._address(storage, element)
        if not self.lanes and value.type.width > 1 and step * storage.scale != 1:
            for i in range(value.type.width):
                one = e.instruction(Type(value.type.scalar), f"extractelement {value}, i64 {i}")
                at = e.offset(address, e.constant(i * step * storage.scale, I64), storage.scalar)
                self._put(one, at, storage, op)
        else:
            self._put(value, address, storage, op)

    def _put(self, value: Value, address: Value, storage: Storage, op: str) -> None:
        if storage.add:
            value = self._combine(op, self.load(address, storage.scalar, value.type.width), value)
        self.store(value, address, storage.scalar)

    def _join(self, parts: list[Value]) -> Value:
        type = Type(parts[0].type.scalar, len(parts))
        whole = Value("poison", type)
        for i, part in enumerate(parts):
            whole = self.e.instruction(type, f"insertelement {whole}, {part}, i64 {i}")
        return whole

    # --- arithmetic -----------------------------------------------------------------------------------------------
    def _identity(self, op: str, width: int) -> Value:
        return self.e.constant(0.0 if op == "sum" else float("-inf"), Type(self.real, width))

    def _combine(self, op: str, a: Value, b: Value) -> Value:
        return self.e.add(a, b) if op == "sum" else self.e.intrinsic("maximum", a.type, a, b)

    def _across(self, op: str, vector: Value) -> Value:
        if op == "sum" or vector.type.width == 1:
            return self.e.sum_elements(vector)
        parts = [
            self.e.instruction(Type(vector.type.scalar), f"extractelement {vector}, i64 {i}")
            for i in range(vector.type.width)
        ]
        while len(parts) > 1:
            parts = [self._combine(op, a, b) for a, b in zip(parts[::2], parts[1::2], strict=True)]
        return parts[0]

    def _as_real(self, flag: Value) -> Value:
        type = flag.type.of(self.real)
        return self.e.select(flag, self.e.constant(1.0, type), self.e.constant(0.0, type))

    def _compute(self, node: Node, args: list[Value], width: int) -> Value:
        if not self.lanes:
            args = [self.e.splat(a, width) for a in args]
        if node.op in ELEMENTARY:
            return ELEMENTARY[node.op](self.e, *args)
        if node.op == "copy" and not node.is_bool and not args[0].type.is_float:
            return self._as_real(args[0])
        return INSTRUCTIONS[node.op](self.e, *args)

    # --- products -------------------------------------------------------------------------------------------------
    def product(self, node: Node, matrix: Value, rows: Value | int, tile: int) -> None:
        """node[r, :] = matrix [k, m] applied to its vector, for `rows` rows; m is padded to whole vectors.

        A block of `tile` rows by some vectors of columns is held in registers while k runs.
        """
        e, k = self.e, node.args[0].shape[1]
        out, view = self.storages[node], self._view(node.args[1])
        source = self.storages[view.base.attr if view.base.op == "input" else view.base]
        columns = -(-node.shape[0] // self.width) * self.width
        vectors = {1: 8, 2: 6, 3: 4, 4: 3}[tile]
        step = vectors * self.width
        main, rest = columns - columns % step, columns % step // self.width
        for first, last, height in self._row_spans(rows, tile):
            if main:
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
                e.store(e.get(sums[r][v]), e.offset(out.pointer, at, self.real), _bytes(self.real))

    def _row_offset(self, row: Value | None, r: int, storage: Storage) -> Value | None:
        if row is None or storage.row is None:
            return None
        return self.e.mul(self.e.add(row, self.e.constant(r, I64)), storage.row)


def _bytes(scalar: str) -> int:
    return {"float": 4, "double": 8, "bfloat": 2, "half": 2, "i8": 1}[scalar]


def _not(e: Emitter, a: Value) -> Value:
    return e.bitwise("xor", a, e.constant(-1, a.type))


def _sign(e: Emitter, a: Value) -> Value:
    zero, one = e.constant(0.0, a.type), e.constant(1.0, a.type)
    signed = e.select(e.compare("oeq", a, zero), zero, e.copysign(one, a))
    return e.select(e.compare("uno", a, a), zero, signed)


INSTRUCTIONS = {
    "neg": lambda e, a: e.neg(a),
    "copy": lambda e, a: a,
    "abs": lambda e, a: e.abs(a),
    "sqrt": lambda e, a: e.sqrt(a),
    "floor": lambda e, a: e.intrinsic("floor", a.type, a),
    "sign": _sign,
    "add": lambda e, a, b: e.add(a, b),
    "sub": lambda e, a, b: e.sub(a, b),
    "mul": lambda e, a, b: e.mul(a, b),
    "div": lambda e, a, b: e.div(a, b),
    "maximum": lambda e, a, b: e.intrinsic("maximum", a.type, a, b),
    "minimum": lambda e, a, b: e.intrinsic("minimum", a.type, a, b),
    "lt": lambda e, a, b: e.compare("olt", a, b),
    "le": lambda e, a, b: e.compare("ole", a, b),
    "eq": lambda e, a, b: e.compare("oeq", a, b),
    "and": lambda e, a, b: e.bitwise("and", a, b),
    "or": lambda e, a, b: e.bitwise("or", a, b),
    "not": _not,
    "where": lambda e, c, a, b: e.select(c, a, b),
}
"""Operations that are an instruction or two; the transcendental ones are in `elementary`."""

assert not INSTRUCTIONS.keys() & REDUCTIONS
