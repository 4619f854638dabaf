"""A matrix memory from chunk to chunk, forward and back, as kernels made of products.

What a chunk of C steps reads of the memory S, held with its keys as rows [K, V], and what it writes:

    reads = since both S (+ mixed v),    U = (I + L)^{-1} (v or 0 - upper reads),    o = lower reads + P U,
    S after the chunk = through S + take^T until U (+ k^T until v),

with E above Q in `both`, L above P in `scores`, a factor of each time step in `since` and `until`. Of the three forms
"adds" has no E and L, and v for U; "corrects" writes and takes out under one key; in "takes" v has a key k of its own,
and `mixed` is what is found and read of it within the chunk. Tensors are [N, M, ...] for N chunks of M memories, one
after the other, in float32; an item of the work is a memory, all its chunks.
"""

from __future__ import annotations

from collections.abc import Callable

from recurra.compiler.codegen.blocks import (
    VECTOR,
    WIDTH,
    call_product,
    first,
    load_masked,
    number,
    place,
    store_masked,
    write_product,
)
from recurra.compiler.codegen.emitter import I64, PTR, Emitter, Type, Value
from recurra.compiler.codegen.kernels import SHARE, Kernel

FORMS = ("adds", "corrects", "takes")
CHUNK = 32
"""C: two vectors of scores in a row."""
INTEGERS = ("chunks", "memories", "keys", "values", "kept", "panel")
"""`kept`: the numbers from the memory before a chunk to that after it, 0 where they are not kept. `panel`: the numbers
of scratch memory for a product."""
_FORWARD = ("scores", "v", "both", "take", "since", "until", "through", "mixed", "k", "states", "inverse", "U", "reads")
_BACKWARD = ("d_out", "dS", "d_scores", "dv", "d_both", "d_take", "d_since", "d_until", "d_through", "d_mixed", "dk")


def write_chunks(form: str, backward: bool) -> Kernel:
    """The kernel `run(pointers, integers, scratch, first, last)` of a form, one way.

    Forward it writes `inverse`, which is -(I + L)^{-1}, `U`, `reads`, and `states` but the first, which it reads.
    Backward it reads all these and writes gradients, dS in the place of that of the last memory.
    """
    e = Emitter()
    names = _FORWARD + (_BACKWARD if backward else ())
    _Chunks(e, form, names, backward).write()
    product = write_product(e.declarations)
    ir = e.function("run", [("pointers", PTR), ("integers", PTR), ("scratch", PTR), ("first", I64), ("last", I64)])
    return Kernel(product + ir + SHARE, list(names), list(INTEGERS), 0)


Placed = tuple[Value, Value]
"""Where a matrix begins, and the numbers from one of its rows to the next."""


class _Chunks:
    def __init__(self, e: Emitter, form: str, names: tuple[str, ...], backward: bool):
        self.e, self.form, self.names, self.backward = e, form, names, backward
        self.rows = CHUNK if form == "adds" else 2 * CHUNK

    def write(self) -> None:
        e = self.e
        read = lambda of, i, type: e.load(e.offset(Value(of, PTR), number(i), type.scalar), type, 8)  # noqa: E731
        self.pointers = {name: read("%pointers", i, PTR) for i, name in enumerate(self.names)}
        self.given = {name: read("%integers", i, I64) for i, name in enumerate(INTEGERS)}
        self.K, self.V = self.given["keys"], self.given["values"]
        self.size = e.mul(self.K, self.V)
        self.panel = Value("%scratch", PTR)
        self.d_reads = place(e, self.panel, self.given["panel"])
        self.dU = place(e, self.d_reads, e.mul(number(2 * CHUNK), self.V))
        self.scaled = place(e, self.dU, e.mul(number(CHUNK), self.V))
        memories, chunks = (Value("%first", I64), Value("%last", I64)), (0, self.given["chunks"])
        with e.loop(*memories) as memory, e.loop(*chunks, down=self.backward) as chunk:
            self.begin(memory, chunk)
            (self.back if self.backward else self.forth)()

    def begin(self, memory: Value, chunk: Value) -> None:
        """Where everything of this chunk lies."""
        e = self.e
        index = e.add(e.mul(chunk, self.given["memories"]), memory)
        both, C, V, K = number(self.rows), number(CHUNK), self.V, self.K
        sizes = {
            "scores": e.mul(both, C), "mixed": e.mul(both, C), "inverse": e.mul(C, C), "both": e.mul(both, K),
            "take": e.mul(C, K), "k": e.mul(C, K), "since": C, "until": C, "through": K,
            "v": e.mul(C, V), "U": e.mul(C, V), "d_out": e.mul(C, V), "reads": e.mul(both, V),
        }  # fmt: skip
        sizes |= {f"d_{name}": sizes[name] for name in ("scores", "both", "take", "since", "until", "through", "mixed")}
        sizes |= {"dv": sizes["v"], "dk": sizes["k"]}
        where = {name: e.mul(index, size) for name, size in sizes.items() if name in self.names}
        self.at = {name: place(e, self.pointers[name], at) for name, at in where.items()}
        begin = e.mul(memory, self.size)
        self.S = place(e, self.pointers["states"], e.add(begin, e.mul(chunk, self.given["kept"])))
        self.after = place(e, self.S, self.given["kept"])
        if self.backward:
            self.dS = place(e, self.pointers["dS"], begin)

    def forth(self) -> None:
        """One chunk."""
        at, C, R, K, V = self.at, number(CHUNK), number(self.rows), self.K, self.V
        self.product((at["both"], K), (self.S, V), (at["reads"], V), R, V, K)
        self.scale_steps("since", at["reads"], at["reads"], V, self.rows)
        if self.form == "takes":
            self.product((at["mixed"], C), (at["v"], V), (at["reads"], V), R, V, C, add=True)
        elif self.form == "corrects":
            self.pass_over(C, V, lambda v, x: self.e.sub(x, v), at["v"], at["reads"])
        U = at["v"]
        if self.form != "adds":
            U = at["U"]
            self.invert()
            self.product((at["inverse"], C), (at["reads"], V), (U, V), C, V, C)
        self.product((self.lower("scores", C), C), (U, V), (self.lower("reads", V), V), C, V, C, add=True)
        self.scale(at["through"], self.S, self.after, K, V)
        for key, written in (("take", U), ("k", at["v"])) if self.form == "takes" else (("take", U),):
            self.scale_steps("until", written, self.scaled, V)
            self.product((at[key], K), (self.scaled, V), (self.after, V), K, V, C, add=True, turned=True)

    def back(self) -> None:
        """The gradients of one chunk, and that of the memory before it from that after it."""
        at, C, R, K, V = self.at, number(CHUNK), number(self.rows), self.K, self.V
        adds, takes = self.form == "adds", self.form == "takes"
        U, dU, d_reads = (at["v"], at["dv"], at["d_out"]) if adds else (at["U"], self.dU, self.d_reads)
        self.written("take", U, dU, "d_take", add=False)
        self.product((self.lower("scores", C), C), (at["d_out"], V), (dU, V), C, V, C, add=True, turned=True)
        if not adds:
            self.product((at["inverse"], C), (dU, V), (d_reads, V), C, V, C, turned=True)
            below = place(self.e, d_reads, self.e.mul(C, V))
            self.pass_over(C, V, lambda x, _: x, at["d_out"], below)
        self.product((d_reads, V), (U, V), (at["d_scores"], C), R, C, V, by_columns=True)
        if takes:
            self.written("k", at["v"], at["dv"], "dk", add=True)
            self.product((d_reads, V), (at["v"], V), (at["d_mixed"], C), R, C, V, by_columns=True)
            self.product((at["mixed"], C), (d_reads, V), (at["dv"], V), C, V, R, add=True, turned=True)
        elif not adds:
            self.pass_over(C, V, lambda x, _: self.e.neg(x), d_reads, at["dv"])
        self.product((d_reads, V), (self.S, V), (at["d_both"], K), R, K, V, by_columns=True)
        self.dot_steps(at["both"], at["d_both"], "d_since", K, self.rows, add=False)
        self.scale_steps("since", at["d_both"], at["d_both"], K, self.rows)
        self.dots(self.S, self.dS, at["d_through"], K, V)
        self.scale(at["through"], self.dS, self.dS, K, V)
        self.scale_steps("since", d_reads, self.scaled, V, self.rows)
        self.product((at["both"], K), (self.scaled, V), (self.dS, V), K, V, R, add=True, turned=True)

    def written(self, key: str, what: Value, d_what: Value, d_key: str, *, add: bool) -> None:
        """The gradients, from that of the memory, of what was written under a key, of the key, and of `until`."""
        at, C, K, V = self.at, number(CHUNK), self.K, self.V
        self.product((at[key], K), (self.dS, V), (d_what, V), C, V, K)
        self.dot_steps(what, d_what, "d_until", V, CHUNK, add=add)
        self.scale_steps("until", d_what, d_what, V)
        self.scale_steps("until", what, self.scaled, V)
        self.product((self.scaled, V), (self.dS, V), (at[d_key], K), C, K, V, by_columns=True)

    # --- what they are made of ---------------------------------------------------------------------------------
    def lower(self, name: str, row: Value) -> Value:
        """The rows that belong to queries."""
        return place(self.e, self.at[name], self.e.mul(number(self.rows - CHUNK), row))

    def product(
        self, left: Placed, right: Placed, out: Placed, m: Value, n: Value, k: Value,
        *, add: bool = False, turned: bool = False, by_columns: bool = False,
    ) -> None:  # fmt: skip
        """out [m, n] = left [m, k] right [k, n], each with the numbers from row to row of what lies in memory, which is
        [k, m] for a left one `turned`, [n, k] for a right one `by_columns`."""
        one = number(1)
        (a, a_row), (b, b_row), (c, c_row) = left, right, out
        values = (
            *((a, one, a_row) if turned else (a, a_row, one)), *((b, one, b_row) if by_columns else (b, b_row, one)),
            c, c_row, number(int(add)), m, n, k, self.panel,
        )  # fmt: skip
        call_product(self.e, values)

    def pass_over(self, rows: Value, row: Value, what: Callable[[Value, Value], Value], of: Value, to: Value) -> None:
        """to = what(of, to), number by number; the numbers come in whole vectors, since C rows do."""
        e = self.e
        with e.loop(0, e.mul(rows, row), WIDTH) as i:
            there = place(e, to, i)
            e.store(what(e.load(place(e, of, i), VECTOR), e.load(there, VECTOR)), there)

    def scale_steps(self, name: str, of: Value, to: Value, row: Value, rows: int = CHUNK) -> None:
        """`scale` by a factor for each time step of the chunk; above and below if there are as many rows."""
        for begin in range(0, rows, CHUNK):
            here, there = (place(self.e, at, self.e.mul(number(begin), row)) for at in (of, to))
            self.scale(self.at[name], here, there, number(CHUNK), row)

    def dot_steps(self, a: Value, b: Value, name: str, row: Value, rows: int, *, add: bool) -> None:
        """`dots` for each time step of the chunk, of rows above and below."""
        for begin in range(0, rows, CHUNK):
            here, there = (place(self.e, at, self.e.mul(number(begin), row)) for at in (a, b))
            self.dots(here, there, self.at[name], number(CHUNK), row, add=add or begin > 0)

    def scale(self, factors: Value, of: Value, to: Value, rows: Value, row: Value) -> None:
        """to = factors of, row by row."""
        e = self.e
        with e.loop(0, rows) as r:
            factor = e.splat(e.load(place(e, factors, r), Type("float")), WIDTH)
            begin = e.mul(r, row)
            with e.loop(0, row, WIDTH) as i:
                flags, at = first(e, e.sub(row, i)), e.add(begin, i)
                store_masked(e, e.mul(factor, load_masked(e, place(e, of, at), flags)), place(e, to, at), flags)

    def dots(self, a: Value, b: Value, to: Value, rows: Value, row: Value, *, add: bool = False) -> None:
        """What each row of a gives with that of b."""
        e = self.e
        with e.loop(0, rows) as r:
            total, begin, there = e.variable(e.constant(0.0, VECTOR)), e.mul(r, row), place(e, to, r)
            with e.loop(0, row, WIDTH) as i:
                flags, at = first(e, e.sub(row, i)), e.add(begin, i)
                x, y = (load_masked(e, place(e, of, at), flags) for of in (a, b))
                e.set(total, e.fma(x, y, e.get(total)))
            dot = e.sum_elements(e.get(total))
            e.store(e.add(dot, e.load(there, dot.type)) if add else dot, there)

    def invert(self) -> None:
        """-(I + L)^{-1} row by row: row i is that of -I less L_ij times row j, for all j before i."""
        e, vectors = self.e, range(CHUNK // WIDTH)
        with e.loop(0, number(CHUNK)) as i:
            row = e.mul(i, number(CHUNK))
            # Two sums for each vector, of even and odd rows: half as long a chain of products.
            sums = [[e.variable(e.constant(0.0, VECTOR)) for _ in range(2)] for _ in vectors]
            pairs = e.bitwise("and", i, number(-2))
            with e.loop(0, pairs, 2) as j:
                for odd in range(2):
                    self.subtract(e.add(j, number(odd)), row, [s[odd] for s in sums])
            with e.loop(pairs, i) as j:
                self.subtract(j, row, [s[0] for s in sums])
            for v, (even, odd) in enumerate(sums):
                here = e.sub(i, number(v * WIDTH))
                lanes = Value(f"<{', '.join(f'i64 {n}' for n in range(WIDTH))}>", Type("i64", WIDTH))
                flags = e.compare("eq", e.splat(here, WIDTH), lanes)
                diagonal = e.select(flags, e.constant(-1.0, VECTOR), e.constant(0.0, VECTOR))
                total = e.add(e.add(e.get(even), e.get(odd)), diagonal)
                e.store(total, place(e, self.at["inverse"], e.add(row, number(v * WIDTH))))

    def subtract(self, j: Value, row: Value, sums: list) -> None:
        e = self.e
        x = e.splat(e.neg(e.load(place(e, self.at["scores"], e.add(row, j)), Type("float"))), WIDTH)
        for v, total in enumerate(sums):
            at = e.add(e.mul(j, number(CHUNK)), number(v * WIDTH))
            e.set(total, e.fma(x, e.load(place(e, self.at["inverse"], at), VECTOR), e.get(total)))
