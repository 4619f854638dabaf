"""Products of small float32 matrices, as functions that kernels made of several of them call.

Numbers are 16 to a vector. A panel of the right matrix is copied to scratch memory, turned round if it lies by columns,
so that whole vectors of it are read one after the other; of the left one single numbers are read where they lie. Eight
rows by two vectors of sums are held in registers, enough of them for fused products that take 4 cycles, two a cycle.
"""

from __future__ import annotations

from collections.abc import Sequence

from recurra.compiler.codegen.emitter import I64, PTR, Emitter, Type, Value
from recurra.compiler.codegen.kernels import SHARE, Kernel

WIDTH = 16
"""Numbers in a vector."""
VECTOR = Type("float", WIDTH)
PANEL = 2 * WIDTH
"""Columns of the right matrix that are copied at once."""
ROWS = 8
"""Rows of the left matrix that are summed at once."""
ARGUMENTS = (
    *(("a", PTR), ("a_row", I64), ("a_column", I64), ("b", PTR), ("b_row", I64), ("b_column", I64)),
    *(("c", PTR), ("c_row", I64), ("add", I64), ("m", I64), ("n", I64), ("k", I64), ("panel", PTR)),
)
"""Of `product`: c [m, n] = a [m, k] b [k, n], added to what is there where `add` is not zero. "row" and "column" are
the numbers from one row, or column, to the next; one of the right matrix's must be 1, c's columns lie side by side.
`panel` has room for `panel_size(k)` numbers."""


def panel_size(k: int) -> int:
    """Numbers of scratch memory that a product over k takes."""
    return (k + WIDTH) * PANEL


INTEGERS = (*(f"{of}_{what}" for of in "abc" for what in ("item", "row", "column")), "m", "n", "k")
"""Of a kernel of products alone. `a_item` and so on: the numbers from one item to the next."""


def write_products() -> Kernel:
    """The kernel `run(pointers, integers, scratch, first, last)` of products; an item is one of them."""
    e = Emitter()
    read = lambda of, i, type: e.load(e.offset(Value(of, PTR), number(i), type.scalar), type, 8)  # noqa: E731
    pointers = {name: read("%pointers", i, PTR) for i, name in enumerate("abc")}
    given = {name: read("%integers", i, I64) for i, name in enumerate(INTEGERS)}
    given |= {"add": number(0), "panel": Value("%scratch", PTR)}
    with e.loop(Value("%first", I64), Value("%last", I64)) as item:
        here = {of: place(e, pointer, e.mul(item, given[f"{of}_item"])) for of, pointer in pointers.items()}
        call_product(e, [(given | here)[name] for name, _ in ARGUMENTS])
    product = write_product(e.declarations)
    ir = e.function("run", [("pointers", PTR), ("integers", PTR), ("scratch", PTR), ("first", I64), ("last", I64)])
    return Kernel(product + ir + SHARE, list(pointers), list(INTEGERS), 0)


def call_product(e: Emitter, values: Sequence[Value]) -> None:
    """Call `product` with these, in the order of its `ARGUMENTS`."""
    e.lines.append(f"  call void @product({', '.join(map(str, values))})")


def write_product(declarations: set[str]) -> str:
    """The text of `product`; what it calls is added to the declarations of its module."""
    e = Emitter()
    _Product(e).write()
    declarations |= e.declarations
    e.declarations = set()
    return e.function("product", list(ARGUMENTS)).replace("define void", "define internal void", 1)


def place(e: Emitter, pointer: Value, at: Value) -> Value:
    """The address of number `at`."""
    return e.offset(pointer, at, "float")


def number(value: int) -> Value:
    """A whole number."""
    return Value(str(value), I64)


def first(e: Emitter, count: Value) -> Value:
    """Flags of the first `count` numbers of a vector."""
    lanes = Value(f"<{', '.join(f'i64 {i}' for i in range(WIDTH))}>", Type("i64", WIDTH))
    return e.compare("sgt", e.splat(count, WIDTH), lanes)


def load_masked(e: Emitter, pointer: Value, flags: Value) -> Value:
    """A vector of which only what is flagged is read; zeros elsewhere."""
    name = f"@llvm.masked.load.{VECTOR.suffix}.p0"
    e.declarations.add(f"declare {VECTOR} {name}(ptr, i32 immarg, {flags.type}, {VECTOR})")
    return e.instruction(VECTOR, f"call {VECTOR} {name}({pointer}, i32 4, {flags}, {VECTOR} zeroinitializer)")


def store_masked(e: Emitter, value: Value, pointer: Value, flags: Value) -> None:
    """Write only what is flagged."""
    name = f"@llvm.masked.store.{VECTOR.suffix}.p0"
    e.declarations.add(f"declare void {name}({VECTOR}, ptr, i32 immarg, {flags.type})")
    e.lines.append(f"  call void {name}({value}, {pointer}, i32 4, {flags})")


class _Product:
    def __init__(self, e: Emitter):
        self.e = e
        self.given = {name: Value(f"%{name}", type) for name, type in ARGUMENTS}

    def write(self) -> None:
        e, given = self.e, self.given
        full = e.bitwise("and", given["m"], number(-ROWS))
        by_rows = e.compare("eq", given["b_column"], number(1))
        by_columns = e.bitwise("xor", by_rows, Value("true", Type("i1")))
        with e.loop(0, given["n"], PANEL) as j:
            with e.when(by_rows):
                self.copy(j)
            with e.when(by_columns):
                self.turn(j)
            with e.loop(0, full, ROWS) as i:
                self.tile(i, j, ROWS)
            with e.loop(full, given["m"]) as i:
                self.tile(i, j, 1)

    def columns(self, j: Value) -> list[tuple[Value, Value]]:
        """Where each vector of a panel begins, and which of its numbers are there."""
        e = self.e
        begins = [e.add(j, number(v)) for v in range(0, PANEL, WIDTH)]
        return [(begin, first(e, e.sub(self.given["n"], begin))) for begin in begins]

    def copy(self, j: Value) -> None:
        """A panel of rows that lie one after the other."""
        e, given = self.e, self.given
        columns = self.columns(j)
        with e.loop(0, given["k"]) as k:
            row, to = e.mul(k, given["b_row"]), e.mul(k, number(PANEL))
            for v, (begin, flags) in enumerate(columns):
                numbers = load_masked(e, place(e, given["b"], e.add(row, begin)), flags)
                e.store(numbers, place(e, given["panel"], e.add(to, number(v * WIDTH))))

    def turn(self, j: Value) -> None:
        """A panel of columns that lie one after the other: as many at once as a vector has numbers, turned round."""
        e, given = self.e, self.given
        last = e.sub(given["n"], number(1))
        with e.loop(0, given["k"], WIDTH) as k:
            flags = first(e, e.sub(given["k"], k))
            for v in range(0, PANEL, WIDTH):
                lines = []
                for c in range(WIDTH):
                    column = e.add(j, number(v + c))
                    # Columns that are not there are read as the last one; nobody looks at their sums.
                    column = e.select(e.compare("slt", column, last), column, last)
                    lines.append(
                        load_masked(e, place(e, given["b"], e.add(e.mul(column, given["b_column"]), k)), flags)
                    )
                for r, vector in enumerate(_transposed(e, lines)):
                    to = e.add(e.mul(e.add(k, number(r)), number(PANEL)), number(v))
                    e.store(vector, place(e, given["panel"], to))

    def tile(self, i: Value, j: Value, rows: int) -> None:
        """`rows` rows from i on, of the panel's columns."""
        e, given = self.e, self.given
        vectors = range(PANEL // WIDTH)
        lefts = [place(e, given["a"], e.mul(e.add(i, number(r)), given["a_row"])) for r in range(rows)]
        sums = [[e.variable(e.constant(0.0, VECTOR)) for _ in vectors] for _ in range(rows)]
        with e.loop(0, given["k"]) as k:
            line, at = place(e, given["panel"], e.mul(k, number(PANEL))), e.mul(k, given["a_column"])
            right = [e.load(place(e, line, number(v * WIDTH)), VECTOR) for v in vectors]
            for left, row in zip(lefts, sums, strict=True):
                x = e.splat(e.load(place(e, left, at), Type("float")), WIDTH)
                for total, vector in zip(row, right, strict=True):
                    e.set(total, e.fma(x, vector, e.get(total)))
        outs = []
        for r, row in enumerate(sums):
            begin_row = e.mul(e.add(i, number(r)), given["c_row"])
            for (begin, flags), total in zip(self.columns(j), row, strict=True):
                outs.append((place(e, given["c"], e.add(begin_row, begin)), flags, total))
        with e.when(e.compare("ne", given["add"], number(0))):
            for out, flags, total in outs:
                e.set(total, e.add(e.get(total), load_masked(e, out, flags)))
        for out, flags, total in outs:
            store_masked(e, e.get(total), out, flags)


def _transposed(e: Emitter, rows: Sequence[Value]) -> list[Value]:
    """A square of numbers, row by row, turned round: squares of 2, of 4 and so on within it."""
    rows, size = list(rows), len(rows)
    step = 1
    while step < size:
        upper = [i if not i & step else size + i - step for i in range(size)]
        lower = [i + step if not i & step else size + i for i in range(size)]
        for i in (i for i in range(size) if not i & step):
            a, b = rows[i], rows[i + step]
            rows[i], rows[i + step] = (_shuffled(e, a, b, order) for order in (upper, lower))
        step *= 2
    return rows


def _shuffled(e: Emitter, a: Value, b: Value, order: Sequence[int]) -> Value:
    mask = f"<{len(order)} x i32> <{', '.join(f'i32 {i}' for i in order)}>"
    return e.instruction(a.type, f"shufflevector {a}, {b}, {mask}")
