"""Writes the LLVM IR of one time step from its schedule: loops and reductions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace

from recurra.compiler.codegen.angles import ANGLES
from recurra.compiler.codegen.circular import CIRCULAR
from recurra.compiler.codegen.elementary import ELEMENTARY
from recurra.compiler.codegen.emitter import I64, Emitter, Value
from recurra.compiler.codegen.product import Products
from recurra.compiler.frontend.graph import REDUCTIONS, Node
from recurra.compiler.planning.schedule import Loop, Place, View

Deal = Callable[[int], AbstractContextManager[tuple[Value, Value]]]
"""Blocks that run for some parts of so many things: from where to where."""
ROWS = 4
"""Rows of a matrix that a loop within the lane takes at once."""


class StepWriter(Products):
    """Emits the steps of a schedule, for `lanes` vectors of lanes at once or vectorised within the lane."""

    def loop(self, loop: Loop, deal: Deal | None = None) -> None:
        """The loop nest of one row; with `deal`, just the parts of its first axis that this gives."""
        self._deal = deal
        # In the order in which they are met, which is the same in every process; a set's is not.
        views = dict.fromkeys(v for node in loop.nodes + loop.reductions for v in map(self._view, node.args))
        computed = set(loop.nodes)
        loaded = sorted(
            (v for v in views if v.base not in computed), key=lambda v: (v.base.number, v.offset, v.strides)
        )
        for reduction in loop.reductions:
            if reduction.attr != (len(loop.shape) - 1,):
                self._fill(reduction)
        self._nest(loop, loaded, [], {})

    def _nest(self, loop: Loop, views: list[View], index: list[Value], memo: dict[View | Node, Value]) -> None:
        """Open the loops one by one; load every operand as far out as its strides allow."""
        # A copy at every level: what an inner loop loads must not be used after it, where it is not defined.
        memo = self._loaded(views, index, memo)
        left = len(loop.shape) - len(index)
        if left == 0:
            self._body(loop, views, [index], [memo], self.width if self.lanes else 1, {})
        elif left == 1:
            self._innermost(loop, views, [index], [memo])
        elif left == 2:
            self._rows_of(loop, views, index, memo)
        else:
            size = loop.shape[len(index)]
            with self._part(size, 1, index) as (first, last), self.e.loop(first, last) as i:
                self._nest(loop, views, [*index, i], memo)

    def _loaded(self, views: list[View], index: list[Value], memo: dict, width: int = 1) -> dict:
        """`memo` with every operand that needs just these loops to be open."""
        return memo | {v: self._load(v, index, width) for v in views if v not in memo and self._level(v) == len(index)}

    def _rows_of(self, loop: Loop, views: list[View], index: list[Value], memo: dict) -> None:
        """The last loop but one, some rows at a time: they share what they load and what they sum."""
        size = loop.shape[-2]
        # What is dealt out reads matrices from memory, which is fastest in the order in which they lie there.
        height = 1 if self.lanes or (self._deal and loop.shape[-1] >= ROWS * self.width) else ROWS
        main = size - size % height
        for start, stop, step in ((0, main, height), (main, size, 1)):
            if start < stop:
                part = self._part(main, height, index) if step == height else nullcontext((start, stop))
                with part as (first, last), self.e.loop(first, last, step) as i:
                    at = [[*index, self.e.add(i, self.e.constant(r, I64)) if r else i] for r in range(step)]
                    self._innermost(loop, views, at, [self._loaded(views, row, memo) for row in at])

    @contextmanager
    def _part(self, size: int, height: int, index: list[Value]) -> Iterator[tuple[Value | int, Value | int]]:
        """From where to where to go on an axis, in steps of `height`: all the way unless this axis is dealt out."""
        if self._deal is None or index:
            yield 0, size
            return
        with self._deal(size // height) as ends:
            first, last = (self.e.mul(n, self.e.constant(height, I64)) for n in ends)
            yield first, last

    def _innermost(self, loop: Loop, views: list[View], rows: list[list[Value]], memos: list[dict]) -> None:
        """The last loop, for some rows at once. What the last axis is summed over has a variable per row, or one."""
        last = len(loop.shape) - 1
        ending = [r for r in loop.reductions if last in r.attr]
        parts: dict[tuple[Node, int], list[Value]] = {}
        abreast = ROWS if len(rows) == 1 and ending and not self.lanes else 1
        for start, stop, width, count in self._spans(loop.shape[-1], abreast):
            sums = {
                (r, row): self.e.variable(self._identity(r.op, width))
                for r in ending
                for row in range(1 if last - 1 in r.attr and count == 1 else len(rows) * count)
            }
            with self.e.loop(start, stop, 1 if self.lanes else width * count) as i:
                at = [i, *(self.e.add(i, self.e.constant(k * width, I64)) for k in range(1, count))]
                points = [[*row, column] for row in rows for column in at]
                # What has no stride along the rows is the same for all of them: loaded once, before the first.
                alike = [v for v in views if v.strides[-2] == 0] if len(rows) > 1 else []
                memo = self._loaded(alike, points[0], {}, width)
                self._body(loop, views, points, [memo | own for own in memos] * count, width, sums)
            for (r, row), variable in sums.items():
                parts.setdefault((r, row // count), []).append(self.e.get(variable))
        for r in ending:
            self._finish(r, [parts[key] for key in parts if key[0] is r], rows)

    def _finish(self, r: Node, parts: list[list[Value]], rows: list[list[Value]]) -> None:
        """Write what a reduction over the last axis came to: per row the vectors of every span."""
        outer = [i for axis, i in enumerate(rows[0]) if axis not in r.attr]
        target = replace(self.storages[r], add=len(r.attr) > 1)
        if len(parts) > 1 and len(parts[0]) == 1 and parts[0][0].type.width >= len(parts):
            self._store(self._each_across(r.op, [row[0] for row in parts]), target, self._row_major_index(r, outer), 1)
            return
        for row, vectors in enumerate(parts):
            values = self._by_width(r.op, vectors)
            scalars = [value if self.lanes else self._across(r.op, value) for value in values]
            total = scalars[0] if len(scalars) == 1 else self._combine(r.op, *scalars)
            outer = [i for axis, i in enumerate(rows[row]) if axis not in r.attr]
            self._store(total, target, self._row_major_index(r, outer), 0, r.op)

    def _by_width(self, op: str, vectors: list[Value]) -> list[Value]:
        """The vectors, those of the same width combined in pairs."""
        groups = {v.type.width: [w for w in vectors if w.type.width == v.type.width] for v in vectors}
        for width, group in groups.items():
            while len(group) > 1:
                pairs = zip(group[::2], group[1::2], strict=False)
                group = [self._combine(op, a, b) for a, b in pairs] + group[len(group) & ~1 :]
            groups[width] = group
        return [group[0] for group in groups.values()]

    def _spans(self, size: int, abreast: int) -> Iterator[tuple[int, int, int, int]]:
        """(start, stop, vector width, vectors at once) pieces of the innermost axis."""
        if self.lanes:
            yield 0, size, self.width, 1
            return
        width = self.width
        while width > size:
            width //= 2
        # Several vectors abreast, then one at a time, then single numbers: each only as long as there is enough left.
        ends = [0, size - size % (abreast * width), size - size % width, size]
        for start, stop, *piece in zip(ends, ends[1:], (width, width, 1), (abreast, 1, 1), strict=False):
            if start < stop:
                yield start, stop, *piece

    def _body(
        self, loop: Loop, views: list[View], indices: list[list[Value]], memos: list[dict], width: int, sums: dict
    ) -> None:
        """All nodes at some indices."""
        terms: dict[tuple[Node, tuple[Value, ...]], Value] = {}
        for row, (index, memo) in enumerate(zip(indices, memos, strict=True)):
            memo = self._loaded(views, index, memo, width)
            self._nodes(loop, index, memo, width)
            for r in loop.reductions:
                term = self._operand(r.args[0], memo, width)
                variable = sums.get((r, row), sums.get((r, 0)))
                if variable:
                    self.e.set(variable, self._combine(r.op, self.e.get(variable), term))
                else:
                    key = r, tuple(i for axis, i in enumerate(index) if axis not in r.attr)
                    terms[key] = self._combine(
                        r.op, terms[key] if key in terms else self._sum_so_far(*key, width), term
                    )
        for (r, kept), term in terms.items():
            self._store(term, self.storages[r], self._row_major_index(r, list(kept)), self._last_stride(r))

    def _sum_so_far(self, r: Node, kept: tuple[Value, ...], width: int) -> Value:
        """What the storage of a reduction holds for the current vector."""
        stored = View(r, 0, self._view(r).strides)
        return self.e.splat(self._load(stored, list(kept), width), width)

    def _last_stride(self, node: Node) -> int:
        return (self._view(node).strides or (0,))[-1]

    def _nodes(self, loop: Loop, index: list[Value], memo: dict, width: int) -> None:
        """Compute and write the pointwise nodes of a loop; `memo` gets their values."""
        for node in loop.nodes:
            memo[node] = self._compute(node, [self._operand(arg, memo, width) for arg in node.args], width)
            if node in self.storages:
                place = self.schedule.views[node]
                self._write(memo[node], self.storages[node], Place(node, 0, place.strides), index)
            for place in self.schedule.places.get(node, []):
                self._write(memo[node], self.storages[place.target], place, index)

    def _operand(self, node: Node, memo: dict, width: int) -> Value:
        """A value at the current index, repeated over the vector if it is the same there."""
        view = self._view(node)
        return self.e.splat(memo[view.base] if view.base in memo else memo[view], width)

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

    def _compute(self, node: Node, args: list[Value], width: int) -> Value:
        if not self.lanes:
            args = [self.e.splat(a, width) for a in args]
        if node.op == "pow":
            args[1] = self._exponent(node.args[1], args[1])
        if node.op in FUNCTIONS:
            return FUNCTIONS[node.op](self.e, *args)
        if node.op == "copy" and not node.is_bool and not args[0].type.is_float:
            return self._as_real(args[0])
        return INSTRUCTIONS[node.op](self.e, *args)

    def _exponent(self, node: Node, value: Value) -> Value:
        """A known exponent in double, as PyTorch has it: large powers tell a third from the float next to it."""
        base = self._view(node).base
        known = base.op == "constant"
        return self.e.constant(float(base.attr), value.type.of("double")) if known else value


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
    "ceil": lambda e, a: e.intrinsic("ceil", a.type, a),
    "trunc": lambda e, a: e.intrinsic("trunc", a.type, a),
    "round": lambda e, a: e.round_even(a),
    "sign": _sign,
    "add": lambda e, a, b: e.fusible("add", a, b),
    "sub": lambda e, a, b: e.fusible("sub", a, b),
    "mul": lambda e, a, b: e.fusible("mul", a, b),
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
"""Operations that are an instruction or two."""
FUNCTIONS = ELEMENTARY | CIRCULAR | ANGLES
"""The transcendental ones."""

assert not INSTRUCTIONS.keys() & REDUCTIONS
