"""A kernel's way through time: states in scratch memory, resets, rows that end early; and the pass forward."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

from recurra.compiler.codegen.access import Storage
from recurra.compiler.codegen.arguments import Kind, Variant, leaf_kind, packed_name, padded
from recurra.compiler.codegen.emitter import I64, Emitter, Type, Value
from recurra.compiler.codegen.layout import Layout
from recurra.compiler.frontend.graph import Node
from recurra.compiler.planning.plan import Plan
from recurra.compiler.planning.schedule import Schedule


class Pass:
    """What both directions share: states in scratch memory, resets, the length of a row."""

    def __init__(self, e: Emitter, layout: Layout, plan: Plan, variant: Variant):
        self.e, self.layout, self.plan, self.variant = e, layout, plan, variant
        self.sizes = {name: math.prod(shape) for name, shape in plan.states.items()}

    def blocks(self, count: int = 1) -> dict[str, Value]:
        """Scratch memory for `count` states."""
        return {name: self.layout.block(size, count) for name, size in self.sizes.items()}

    def argument(self, prefix: str, kind: Kind = Kind.BATCH_LANE, t: Value | None = None) -> dict[str, Storage]:
        """All states of one argument, such as the one each sequence starts from."""
        real = self.plan.real
        return {n: self.layout.at(f"{prefix}.{n}", kind, size, real, t) for n, size in self.sizes.items()}

    def own(self, blocks: Mapping[str, Value], index: Value | None = None) -> dict[str, Storage]:
        """States in scratch memory as storage: the only one, or number `index`."""
        layout = self.layout
        at = {n: b if index is None else layout.block_at(b, self.sizes[n], index) for n, b in blocks.items()}
        return {name: layout.own(block, self.sizes[name]) for name, block in at.items()}

    def move(self, to: Mapping[str, Storage], source: Mapping[str, Storage] | None, row: Value | None = None) -> None:
        """Copy states, or fill them with zeros."""
        for name, size in self.sizes.items():
            self.layout.transfer(to[name], None if source is None else source[name], size, row)

    def time(self) -> Value:
        """Time steps to run for this item."""
        layout = self.layout
        if not self.by_row and self.variant.lengths:
            return self.e.load(self.e.offset(layout.args.pointer("lengths"), layout.sequence(None), "i64"), I64)
        return layout.args.integer("time")

    @property
    def by_row(self) -> bool:
        """Whether rows of an item may end at different time steps."""
        return self.variant.lengths and self.layout.rows > 1

    @contextmanager
    def active(self, row: Value | None, t: Value) -> Iterator[None]:
        """A block that runs only where time step t of a row is not padding."""
        if not self.by_row:
            yield
            return
        e, layout = self.e, self.layout
        length = e.load(e.offset(layout.args.pointer("lengths"), layout.sequence(row), "i64"), I64)
        with e.when(e.compare("slt", t, length)):
            yield

    @contextmanager
    def reset(self, t: Value, row: Value | None) -> Iterator[None]:
        """A block that runs only where a packed sequence starts at t."""
        e, layout = self.e, self.layout
        at = layout.sum((layout.sequence(row), layout.args.integer("time")), t)
        flag = e.load(e.offset(layout.args.pointer("resets"), at, "i8"), Type("i8"))
        with self.active(row, t), e.when(e.compare("ne", flag, e.constant(0, flag.type))):
            yield

    def restart(self, states: Mapping[str, Storage], t: Value) -> None:
        """Put the start state where a packed sequence starts."""
        if self.variant.resets:
            start = self.argument("start", Kind.LANE)
            with self.layout.each_row() as row, self.reset(t, row):
                self.move(states, start, row)

    def leaves(self, t: Value) -> dict[str | Node, Storage]:
        """Storage of everything `step` reads besides the state."""
        return {
            name: self.layout.at(name, leaf_kind(leaf), math.prod(leaf.shape), leaf.scalar, t)
            for name, leaf in self.plan.leaves.items()
        }

    def kept(self, t: Value) -> dict[str, Storage]:
        """Where what the way forward keeps for the way back lies."""
        layout = self.layout
        sizes = {name: padded(node.size, layout.width) for name, node in self.plan.kept.items()}
        return {name: layout.at(name, Kind.TIME_LANE, size, self.plan.real, t) for name, size in sizes.items()}

    def run(
        self,
        schedule: Schedule,
        storages: Callable[[], dict[str | Node, Storage]],
        carried: tuple[str, str],
        target: Callable[[], dict[str, Storage]],
        t: Value,
        keep: bool = False,
    ) -> None:
        """One time step of a schedule that turns the states `<before>.<name>` into `<after>.<name>` at `target`.

        Where a state may not be written while it is still read, or a row may have ended, it is computed beside and
        then moved. With `keep` the target is other memory than what is read.
        """
        # In place is safe if every value of the old state is read before the new one is written there, and no row of
        # the item has ended: a row that has must keep its last state while its neighbours still run.
        before, after = carried
        shapes = self.plan.states
        direct = not self.by_row and (
            keep or all(schedule.writes_in_place(self.plan.leaf(f"{before}.{n}"), f"{after}.{n}") for n in shapes)
        )
        beside = None if direct else self._beside(after)

        def all_storages() -> dict[str | Node, Storage]:
            written = target() if beside is None else self.own(beside)
            return storages() | {f"{after}.{name}": storage for name, storage in written.items()}

        self.layout.step(schedule, all_storages, {p: packed_name(schedule, p) for p in schedule.products})
        if beside is not None:
            with self.layout.each_row() as row, self.active(row, t):
                self.move(target(), self.own(beside), row)

    def _beside(self, after: str) -> dict[str, Value]:
        known = self.__dict__.setdefault("_memory", {})
        if after not in known:
            known[after] = self.blocks()
        return known[after]


class Forward(Pass):
    """State in, all time steps, state out; with `save`, states on the way and what is kept of each step are stored."""

    def write(self) -> None:
        e = self.e
        state = self.blocks()
        self.move(self.own(state), self.argument("state"))
        with e.loop(0, self.time()) as t:
            # First the reset, then the store: the way back starts from the state that the step has really read.
            self.restart(self.own(state), t)
            if self.variant.save:
                self._store_state(state, t)
            self._step(state, t)
        self.move(self.argument("last"), self.own(state))

    def _store_state(self, state: dict[str, Value], t: Value) -> None:
        e, chunk = self.e, e_index(self.e, self.variant.chunk)
        # Stored before the first step of every chunk: t is a multiple of the chunk there.
        number = e.div(t, chunk)
        if self.variant.chunk == 1:
            self.move(self.argument("stored", Kind.CHUNK, number), self.own(state))
            return
        with e.when(e.compare("eq", e.mul(number, chunk), t)):
            self.move(self.argument("stored", Kind.CHUNK, number), self.own(state))

    def _step(self, state: dict[str, Value], t: Value) -> None:
        layout, plan = self.layout, self.plan

        def storages() -> dict[str | Node, Storage]:
            known = self.leaves(t) | {f"state.{name}": storage for name, storage in self.own(state).items()}
            for name, (shape, scalar) in plan.outputs.items():
                place = layout.at(name, Kind.TIME_LANE, math.prod(shape), scalar, t)
                known[name] = replace(place, past_caches=self.variant.past_caches)
            if self.variant.save:
                known |= {plan.kept[name]: storage for name, storage in self.kept(t).items()}
            return known

        self.run(plan.forward, storages, ("state", "next"), lambda: self.own(state), t)


def e_index(e: Emitter, value: int) -> Value:
    """An index known now."""
    return e.constant(value, I64)
