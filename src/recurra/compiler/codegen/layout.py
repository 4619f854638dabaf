"""How a kernel walks over sequences and lanes, and where in memory things lie: one interface.

`channel` and `head` implement it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from recurra.compiler.codegen.access import Storage
from recurra.compiler.codegen.arguments import Kind
from recurra.compiler.codegen.emitter import I64, PTR, Emitter, Type, Value
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
    down = False
    """Whether time runs backwards."""

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

    @contextmanager
    def backwards(self) -> Iterator[None]:
        """A block whose time runs backwards."""
        self.down = True
        try:
            yield
        finally:
            self.down = False

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


def e_constant(e: Emitter, value: int) -> Value:
    """An index known now."""
    return e.constant(value, I64)
