"""Where values lie and how they are read, written and summed: what all code within a time step is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from recurra.compiler.codegen.emitter import I64, Emitter, Type, Value
from recurra.compiler.frontend.graph import Node
from recurra.compiler.planning.schedule import Place, Schedule, View


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
    past_caches: bool = False
    """Whether whole vectors go to memory past the caches; only where they are aligned."""
    onward: Value | None = None
    """Elements of memory to the same place of the time step that comes next: where given, it is fetched ahead."""


class Access:
    """Reads and writes the values of a schedule, for whole vectors of lanes or vectors within the lane."""

    def __init__(
        self, e: Emitter, schedule: Schedule, storages: Mapping[str | Node, Storage], real: str, width: int, lanes: bool
    ):
        self.e, self.schedule, self.storages = e, schedule, storages
        self.real, self.width, self.lanes = real, width, lanes
        self.row: Value | None = None

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
        # pointer + element * scale + row * (elements per row). In the channel layout value number i of a lane lies
        # `lanes` (or `pitch`) elements after value number i - 1, which is the scale; in the head layout it is 1.
        at = element if storage.scale == 1 else e.mul(element, e.constant(storage.scale, I64))
        if storage.row is not None and self.row is not None:
            at = e.add(at, e.mul(self.row, storage.row))
        return storage.pointer if at.text == "0" else e.offset(storage.pointer, at, storage.scalar)

    def _load(self, view: View, index: list[Value], width: int) -> Value:
        """An operand: a scalar if it is the same for the whole vector, else a vector."""
        e, base = self.e, view.base
        if base.op == "constant":
            return e.constant(float(base.attr), Type(self.real))
        storage = self._table(base) if base.op == "table" else self.storages[base.attr if base.op == "input" else base]
        address = self._address(storage, self._element(view.offset, view.strides, index))
        # The innermost loop is open only if there is an index for every axis: otherwise the operand is loaded outside
        # of it, once, and all of its iterations read the same number.
        step = view.strides[-1] if view.strides and len(index) == len(view.strides) else 0
        several = storage.lanes if self.lanes else step != 0
        count = (self.width if self.lanes else width) if several else 1
        if not self.lanes and count > 1 and step * storage.scale != 1:
            # Neighbours of the vector lie apart in memory (a column, a transposed view): read one by one.
            parts = [
                self.load(
                    e.offset(address, e.constant(i * step * storage.scale, I64), storage.scalar), storage.scalar, 1
                )
                for i in range(count)
            ]
            loaded = self._join(parts)
        else:
            self.fetch_ahead(storage, address, count)
            loaded = self.load(address, storage.scalar, count)
        if base.is_bool and loaded.type.is_float:
            return e.compare("une", loaded, e.constant(0.0, loaded.type))
        return loaded

    def _table(self, node: Node) -> Storage:
        """Numbers known now, which are part of the code."""
        return Storage(self.e.numbers(node.attr.values, self.real), self.real)

    def fetch_ahead(self, storage: Storage, address: Value, count: int, write: bool = False) -> None:
        """What will be read in place of `count` neighbours a time step on. Processors guess it where steps follow each
        other in memory, but not backwards, nor where each reads some numbers of every sequence of a tile."""
        if storage.onward is not None and count > 1:
            self.e.fetch_ahead(self.e.offset(address, storage.onward, storage.scalar), write)

    def load(self, address: Value, scalar: str, count: int) -> Value:
        """`count` neighbours in the type of arithmetic; booleans as i1."""
        e = self.e
        raw = e.load(address, Type({"bfloat": "i16", "half": "half"}.get(scalar, scalar), count), bytes_of(scalar))
        if scalar == "i8":
            return e.compare("ne", raw, e.constant(0, raw.type))
        if scalar == "bfloat":
            # A bfloat16 is the upper half of a float32: shifted up, no number changes.
            wide = e.bitwise("shl", e.convert("zext", raw, "i32"), e.constant(16, raw.type.of("i32")))
            return e.convert("bitcast", wide, "float")
        return e.convert("fpext", raw, self.real)

    def store(self, value: Value, address: Value, scalar: str) -> None:
        """In the storage type, rounded to nearest even."""
        e = self.e
        if scalar == "bfloat":
            # Half a unit of the last bit kept, less one, plus that bit: a tie then carries only from an odd number,
            # which is rounding to even. NaN would carry into infinity, so it is put back by hand.
            bits = e.convert("bitcast", value, "i32")
            one, half = e.constant(1, bits.type), e.constant(0x7FFF, bits.type)
            odd = e.bitwise("and", e.bitwise("lshr", bits, e.constant(16, bits.type)), one)
            rounded = e.bitwise("lshr", e.add(bits, e.add(half, odd)), e.constant(16, bits.type))
            nan = e.compare("uno", value, value)
            value = e.convert("trunc", e.select(nan, e.constant(0x7FC0, bits.type), rounded), "i16")
        elif scalar == "half":
            value = e.convert("fptrunc", value, "half")
        e.store(value, address, bytes_of(scalar))

    def _write(self, value: Value, storage: Storage, place: Place, index: list[Value]) -> None:
        if not value.type.is_float:
            value = self._as_real(value)
        element = self._element(place.offset, place.strides, index)
        self._store(value, storage, element, place.strides[-1] if place.strides else 0)

    def _store(self, value: Value, storage: Storage, element: Value, step: int, op: str = "sum") -> None:
        """Write (or add) a value; across the vector, elements lie `step` indices apart."""
        e, address = self.e, self._address(storage, element)
        # Across lanes neighbours always lie side by side; within a lane only if they are one element apart.
        if not self.lanes and value.type.width > 1 and step * storage.scale != 1:
            for i in range(value.type.width):
                one = e.instruction(Type(value.type.scalar), f"extractelement {value}, i64 {i}")
                at = e.offset(address, e.constant(i * step * storage.scale, I64), storage.scalar)
                self._put(one, at, storage, op)
        else:
            self.fetch_ahead(storage, address, value.type.width, write=True)
            self._put(value, address, storage, op)

    def _put(self, value: Value, address: Value, storage: Storage, op: str) -> None:
        if storage.add:
            value = self._combine(op, self.load(address, storage.scalar, value.type.width), value)
        # What is rounded to a shorter type on its way goes through the caches: half a vector fills no line of them.
        if storage.past_caches and value.type.scalar == storage.scalar:
            self.e.store_past_caches(value, address)
        else:
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
        return self.e.fusible("add", a, b) if op == "sum" else self.e.intrinsic("maximum", a.type, a, b)

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

    def _each_across(self, op: str, vectors: list[Value]) -> Value:
        """One number per vector, side by side: halves are combined, those of two vectors at a time."""
        # Of vectors a and b of 4: first (a0 a1 b0 b1) + (a2 a3 b2 b3), then (a0 b0) + (a1 b1) of those: as many
        # instructions as one vector takes alone, for two. `size` is how many partial results each vector still has.
        size = vectors[0].type.width
        while size > 1:
            pairs = list(zip(vectors[::2], vectors[1::2], strict=True)) if len(vectors) > 1 else [(vectors[0], None)]
            size //= 2
            vectors = [self._combine(op, *(self._halves(a, b, size, at) for at in (0, size))) for a, b in pairs]
        return vectors[0]

    def _halves(self, a: Value, b: Value | None, size: int, start: int) -> Value:
        """From every group of 2 * `size` numbers of a, then of b, those from `start` on."""
        width = a.type.width * (1 if b is None else 2)
        places = [group + start + i for group in range(0, width, 2 * size) for i in range(size)]
        mask = ", ".join(f"i32 {place}" for place in places)
        second = f"{a.type} poison" if b is None else str(b)
        type = Type(a.type.scalar, len(places))
        return self.e.instruction(type, f"shufflevector {a}, {second}, <{len(places)} x i32> <{mask}>")

    def _as_real(self, flag: Value) -> Value:
        type = flag.type.of(self.real)
        return self.e.select(flag, self.e.constant(1.0, type), self.e.constant(0.0, type))


def bytes_of(scalar: str) -> int:
    """Bytes of memory that a number takes."""
    return {"float": 4, "double": 8, "bfloat": 2, "half": 2, "i8": 1}[scalar]
