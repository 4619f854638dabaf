"""The pass backward through time."""

from __future__ import annotations

import math
from dataclasses import replace

from recurra.compiler.codegen.access import Storage
from recurra.compiler.codegen.arguments import Kind, Output, gradient_outputs
from recurra.compiler.codegen.channel import Channel
from recurra.compiler.codegen.emitter import Value
from recurra.compiler.codegen.layout import Layout
from recurra.compiler.codegen.passes import Pass, e_index
from recurra.compiler.frontend.graph import Node


class Reverse(Pass):
    """Chunks from the last to the first: states again from the one stored, then every step's gradient backwards."""

    def write(self) -> None:
        # One state more than a chunk has steps if what is recalled needs the last step to be run as well: the state
        # that it leads to is written, though nobody reads it.
        e, chunk = self.e, self.variant.chunk
        self.adjoint, self.states = self.blocks(), self.blocks(chunk + bool(self.plan.recalled))
        self.recalled = {name: self.layout.block(math.prod(shape), chunk) for name, shape in self.plan.recalled.items()}
        self.sums = self._sums()
        self.move(self.own(self.adjoint), self.argument("adjoint"))
        time = self.time()
        size = e_index(e, chunk)
        chunks = e.div(e.add(time, e_index(e, chunk - 1)), size)  # rounded up: the last chunk may be shorter
        with e.loop(0, chunks, down=True) as number:
            first = e.mul(number, size)
            end = e.add(first, size)
            end = e.select(e.compare("slt", end, time), end, time)
            zero = e_index(e, 0)
            with self.layout.backwards():
                self.move(self.own(self.states, zero), self.argument("stored", Kind.CHUNK, number))
            if chunk > 1 or self.plan.recalled:
                self._recompute(first, end)
            with self.layout.backwards(), e.loop(first, end, down=True) as t:
                self._step(t, e.sub(t, first))
        self.move(self.argument("first"), self.own(self.adjoint))
        self._finish_sums()

    def _recompute(self, first: Value, end: Value) -> None:
        """States before each step of a chunk, from the state before its first, and what is recalled of each step."""
        e = self.e
        # State number i is the one before step i of the chunk; the step that leads out of the chunk need not run,
        # unless something of it is recalled. Its reset still has to happen, so the loop goes to the end either way.
        steps = end if self.plan.recalled else e.sub(end, e_index(e, 1))
        with e.loop(first, end) as t:
            index = e.sub(t, first)
            self.restart(self.own(self.states, index), t)
            following = e.add(index, e_index(e, 1))
            with e.when(e.compare("slt", t, steps)):

                def storages(t: Value = t, index: Value = index) -> dict[str | Node, Storage]:
                    states = self.own(self.states, index)
                    known = self.leaves(t) | {f"state.{name}": storage for name, storage in states.items()}
                    return known | self.kept(t) | self._recalled_at(index)

                self.run(
                    self.plan.recompute,
                    storages,
                    ("state", "next"),
                    lambda: self.own(self.states, following),
                    t,
                    keep=True,
                )

    def _step(self, t: Value, index: Value) -> None:
        layout, plan = self.layout, self.plan
        outputs = gradient_outputs(plan)

        def storages() -> dict[str | Node, Storage]:
            known = self.leaves(t)
            known |= {f"state.{name}": s for name, s in self.own(self.states, index).items()}
            known |= {f"adjoint.{name}": s for name, s in self.own(self.adjoint).items()}
            for name, (shape, scalar) in plan.outputs.items():
                known[f"grad.{name}"] = layout.at(f"grad.{name}", Kind.TIME_LANE, math.prod(shape), scalar, t)
            known |= self.kept(t) | self._recalled_at(index)
            for output in outputs:
                known[output.name] = self._gradient_storage(output, t)
            return known

        # Gradients of what all lanes share are added up in vectors over the lanes of the block, cleared for every step,
        # and only then summed across: one horizontal sum per value and step instead of one per vector.
        for output in outputs:
            if output.kind is Kind.PART_TIME and isinstance(layout, Channel):
                layout.clear_lane_sum(output.name, output.size)
        self.run(plan.reverse, storages, ("adjoint", "before"), lambda: self.own(self.adjoint), t)
        for output in outputs:
            if output.kind is Kind.PART_TIME and isinstance(layout, Channel):
                target = layout.at(output.name, Kind.PART_TIME, output.size, output.scalar, t)
                layout.finish_lane_sum(output.name, output.size, target)
        # After the step backwards the adjoint is that of the state that step t has read. Where a sequence starts at t
        # this was the start state: it takes the gradient, and nothing goes on to the step before.
        if self.variant.resets:
            with layout.each_row() as row, self.reset(t, row):
                start = {n: replace(s, add=True) for n, s in self.argument("start gradient", Kind.PART_LANE).items()}
                self.move(start, self.own(self.adjoint), row)
                self.move(self.own(self.adjoint), None, row)

    def _recalled_at(self, index: Value) -> dict[str, Storage]:
        """What is recalled of a step of the chunk."""
        sizes = {name: math.prod(shape) for name, shape in self.plan.recalled.items()}
        return {
            name: self.layout.own(self.layout.block_at(block, sizes[name], index), sizes[name])
            for name, block in self.recalled.items()
        }

    def _gradient_storage(self, output: Output, t: Value) -> Storage:
        layout = self.layout
        if output.kind in self.sums_kept_by(layout):
            return layout.lane_sum_storage(output.name, output.size)  # type: ignore[attr-defined]
        if output.name in self.sums:
            return replace(layout.own(self.sums[output.name], output.size), add=True)
        place = layout.at(output.name, output.kind, output.size, output.scalar, t)
        return replace(place, past_caches=self.variant.past_caches)

    @staticmethod
    def sums_kept_by(layout: Layout) -> tuple[str, ...]:
        """Kinds of output that channels add up across lanes."""
        return (Kind.PART_TIME, Kind.PART) if isinstance(layout, Channel) else ()

    def _sums(self) -> dict[str, Value]:
        """Memory for gradients of constants, added up over the time steps of an item (channel layout)."""
        layout, sums = self.layout, {}
        if not isinstance(layout, Channel):
            return sums
        for output in gradient_outputs(self.plan):
            if output.kind is Kind.PART_LANE:
                sums[output.name] = layout.block(output.size)
                layout.transfer(layout.own(sums[output.name], output.size), None, output.size)
            if output.kind is Kind.PART:
                layout.clear_lane_sum(output.name, output.size)
        return sums

    def _finish_sums(self) -> None:
        layout = self.layout
        if not isinstance(layout, Channel):
            return
        for output in gradient_outputs(self.plan):
            if output.kind not in (Kind.PART, Kind.PART_LANE):
                continue
            target = layout.at(output.name, output.kind, output.size, output.scalar)
            if output.kind is Kind.PART_LANE:
                layout.transfer(target, layout.own(self.sums[output.name], output.size), output.size)
            else:
                layout.finish_lane_sum(output.name, output.size, target)
