"""From a graph to an ordered list of loops and products; nothing here knows a device or a source language.

Pointwise operations of one shape whose arguments are ready at the same time share one loop. A view is never computed:
it is an offset and strides into what it looks at. A value is put into memory only if another loop reads it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from recurra.compiler.frontend.graph import LEAVES, POINTWISE, REDUCTIONS, VIEWS, Graph, Node, topological

COST = {"exp": 22, "expm1": 20, "log": 30, "log1p": 65, "sigmoid": 26, "tanh": 26, "softplus": 90, "erf": 50, "sin": 30,
        "cos": 30, "pow": 120, "div": 5, "sqrt": 6, "log2": 30, "erfc": 50, "tan": 45, "asin": 40, "acos": 40,
        "atan": 30, "atan2": 35, "sinh": 45, "cosh": 45, "asinh": 110, "acosh": 110, "atanh": 75,
        "fmod": 16, "exp2": 20, "hypot": 12}  # fmt: skip
"""Instructions of the operations that take more than one."""


@dataclass(frozen=True)
class View:
    """Where the elements of a node lie: in the row-major storage of `base`, at offset + index . strides."""

    base: Node
    offset: int
    strides: tuple[int, ...]


@dataclass(frozen=True)
class Place:
    """Part of the storage of an output or of an assembled value, to be written by the node that has this place."""

    target: str | Node
    offset: int
    strides: tuple[int, ...]


@dataclass
class Loop:
    """One loop nest over `shape`: pointwise nodes in order, and reductions of what it computes or reads."""

    shape: tuple[int, ...]
    nodes: list[Node] = field(default_factory=list)
    reductions: list[Node] = field(default_factory=list)


@dataclass
class Schedule:
    """What to do in one time step, in order."""

    steps: list[Loop | Node]
    """Loops, and nodes that are products."""
    buffers: list[Node]
    """Values that need memory for the length of one time step."""
    places: dict[Node, list[Place]]
    """Where else a pointwise value is written."""
    views: dict[Node, View]

    def lines(self) -> list[str]:
        """The schedule for a person: one line per loop or product."""
        described = []
        for step in self.steps:
            if isinstance(step, Node):
                m, k = step.args[0].shape
                described.append(f"product [{m}, {k}] by a vector")
                continue
            kept = [node for node in step.nodes if node in self.buffers]
            written = [str(p.target) for n in step.nodes for p in self.places.get(n, []) if isinstance(p.target, str)]
            over = f"loop over {list(step.shape)}" if step.shape else "once"
            parts = [f"{over}: {', '.join(n.op for n in [*step.nodes, *step.reductions])}"]
            parts += [f"keeps {len(kept)} value(s)"] if kept else []
            parts += [f"writes {', '.join(written)}"] if written else []
            described.append("; ".join(parts))
        return described

    @cached_property
    def instructions(self) -> int:
        """About how many instructions one lane takes for one time step, were it alone in its vector."""
        total = 0
        for step in self.steps:
            if isinstance(step, Node):
                total += step.args[0].size
            else:
                each = sum(COST.get(n.op, 1) for n in step.nodes) + len(step.reductions)
                total += each * math.prod(step.shape)
        return total

    @property
    def products(self) -> list[Node]:
        """Matrix-vector products whose matrix is a leaf that does not change in time."""
        return [step for step in self.steps if isinstance(step, Node)]

    def writes_in_place(self, leaf: Node, output: str) -> bool:
        """Whether `output` may be written over `leaf`: every read comes before, or at the same element."""
        writers = [n for n, places in self.places.items() if any(p.target == output for p in places)]
        loops = {n: i for i, step in enumerate(self.steps) if isinstance(step, Loop) for n in step.nodes}
        first = min(loops[n] for n in writers)
        for i, step in enumerate(self.steps):
            for reader in [step] if isinstance(step, Node) else step.nodes + step.reductions:
                for view in (self.views[arg] for arg in reader.args):
                    if view.base is leaf and (i > first or (i == first and not _identity(view, step.shape))):
                        return False
        return len({loops[n] for n in writers}) == 1


def row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides, in elements, of a contiguous block; 0 along axes of length 1."""
    strides, size = [], 1
    for n in reversed(shape):
        strides.append(0 if n == 1 else size)
        size *= n
    return tuple(reversed(strides))


def _identity(view: View, shape: tuple[int, ...]) -> bool:
    return view.offset == 0 and view.base.shape == shape and view.strides == row_major(shape)


def expand_products(graph: Graph, outputs: Mapping[str, Node], fixed: set[str]) -> dict[str, Node]:
    """Write every matrix-vector product as multiply and sum, unless its matrix is a view of a leaf in `fixed`."""
    made: dict[Node, Node] = {}
    for node in topological(outputs.values()):
        args = tuple(made[arg] for arg in node.args)
        if node.op == "matvec" and _leaf_name(node.args[0]) not in fixed:
            made[node] = graph.reduce("sum", graph.pointwise("mul", args[0], args[1]), (1,))
        elif node.op == "matvec" and args[1].op in VIEWS:
            made[node] = graph.matvec(args[0], graph.pointwise("copy", args[1]))
        else:
            made[node] = graph.rebuild(node, args)
    return {name: made[node] for name, node in outputs.items()}


def _leaf_name(node: Node) -> str | None:
    while node.op in ("reshape", "permute", "slice"):
        node = node.args[0]
    return node.attr if node.op == "input" else None


def schedule(outputs: Mapping[str, Node]) -> Schedule:
    """Order the computation of `outputs`, each of which will be written to storage of its own shape."""
    return _Scheduler(outputs).run()


class _Scheduler:
    def __init__(self, outputs: Mapping[str, Node]):
        self.views: dict[Node, View] = {}
        self.places: dict[Node, list[Place]] = {}
        self.writers: dict[Node, list[Node]] = {}
        self.nodes: list[Node] = []
        self._needed: dict[Node, tuple[tuple[Node, int], ...]] = {}
        for node in topological(outputs.values()):
            self._enter(node)
        for name, node in outputs.items():
            self._place(node, Place(name, 0, row_major(node.shape)))

    # --- views and places -----------------------------------------------------------------------------------------
    def _enter(self, node: Node) -> None:
        if node.op in VIEWS:
            self.views[node] = _compose(node, self.views[node.args[0]]) or self._computed(node)
            return
        self.views[node] = View(node, 0, row_major(node.shape))
        if node.op == "assemble":
            strides = row_major(node.shape)
            self.writers[node] = [
                self._place(part, Place(node, sum(a * s for a, s in zip(at, strides, strict=True)), strides))
                for part, at in zip(node.args, node.attr, strict=True)
            ]
        elif node.op not in LEAVES:
            self.nodes.append(node)

    def _computed(self, node: Node) -> View:
        """A view that strides cannot express is copied element by element into its argument's order first."""
        copy = Node("copy", node.args, node.args[0].shape, None, node.is_bool)
        self.nodes.append(copy)
        self.views[copy] = View(copy, 0, row_major(copy.shape))
        view = _compose(node, self.views[copy])
        assert view is not None
        return view

    def _place(self, node: Node, place: Place) -> Node:
        """Have `node` written to `place`; anything but a pointwise value goes through a copy. Gives the writer."""
        if node.op not in POINTWISE or node.is_bool:
            node = Node("copy", (node,), node.shape, None, False)
            self.nodes.append(node)
            self.views[node] = View(node, 0, row_major(node.shape))
        self.places.setdefault(node, []).append(place)
        return node

    # --- stages ---------------------------------------------------------------------------------------------------
    def _dependencies(self, user: Node) -> Sequence[tuple[Node, int]]:
        """What must be computed before `user`, and by how many stages (0: in the same loop will do)."""
        if user not in self._needed:
            self._needed[user] = tuple(self._found(user))
        return self._needed[user]

    def _found(self, user: Node) -> Iterable[tuple[Node, int]]:
        for view in (self.views[arg] for arg in user.args):
            base = view.base
            if base.op == "assemble":
                yield from ((writer, 1) for writer in self.writers[base])
            elif base.op in POINTWISE:
                yield base, 0 if user.op != "matvec" and _identity(view, _space(user)) else 1
            elif base.op not in LEAVES:
                yield base, 1

    def run(self) -> Schedule:
        stage, sums = self._stages(), self._sums_before()
        groups: dict[object, list[Node]] = {}
        for node in sorted(self.nodes, key=lambda node: (stage[node], node.op != "matvec")):
            space = _space(node)
            key = node if node.op == "matvec" else (stage[node], space, sums[node] if len(space) < 2 else None)
            groups.setdefault(key, []).append(node)
        place = {node: number for number, node in enumerate(self.nodes)}
        steps = [self._step(nodes, place) for nodes in self._fused(list(groups.values()))]
        return Schedule(steps, self._buffers(steps), self.places, self.views)

    def _stages(self) -> dict[Node, int]:
        """When each node is computed: as late as what needs it allows, none later than need be."""
        stage: dict[Node, int] = {}
        latest: dict[Node, int] = {}
        for node in self.nodes:
            stage[node] = max((stage[dep] + gap for dep, gap in self._dependencies(node)), default=0)
        for node in reversed(self.nodes):
            stage[node] = latest.get(node, stage[node])
            for dep, gap in self._dependencies(node):
                latest[dep] = min(latest.get(dep, stage[node] - gap), stage[node] - gap)
        return stage

    def _sums_before(self) -> dict[Node, frozenset[Node]]:
        """Which sums over matrices must be there before each node. Vectors that wait for fewer of them are not grouped
        with those that wait for more: else a loop over a matrix that reads the former would wait for the sums, too.
        """
        before: dict[Node, frozenset[Node]] = {}
        for node in self.nodes:
            sums = [before[dep] for dep, _ in self._dependencies(node)]
            sums += [{dep} for dep, _ in self._dependencies(node) if dep.op in REDUCTIONS and len(_space(dep)) > 1]
            before[node] = frozenset().union(*sums)
        return before

    def _fused(self, groups: list[list[Node]]) -> list[list[Node]]:
        """Merge groups over the same space that need not wait for one another, large ones first."""
        while True:
            groups, waits = self._ordered(groups)
            alike: dict[tuple[int, ...], int] = {}
            for number, nodes in enumerate(groups):
                if nodes[0].op != "matvec":
                    alike[_space(nodes[0])] = alike.get(_space(nodes[0]), 0) | 1 << number
            sizes = [math.prod(_space(nodes[0])) for nodes in groups]
            for j in sorted(range(len(groups)), key=lambda j: -sizes[j]):
                # As bits, what comes before, loops over the same space and is not waited for.
                free = alike.get(_space(groups[j][0]), 0) & ~waits[j] & ((1 << j) - 1)
                if free and groups[j][0].op != "matvec":
                    groups[free.bit_length() - 1] += groups.pop(j)
                    break
            else:
                return groups

    def _ordered(self, groups: list[list[Node]]) -> tuple[list[list[Node]], list[int]]:
        """Groups, each after what it reads, and for each the numbers, as bits, of those that must be done before it."""
        home = {node: number for number, nodes in enumerate(groups) for node in nodes}
        reads = [{(home[dep], gap) for node in nodes for dep, gap in self._dependencies(node)} for nodes in groups]
        order: dict[int, None] = {}

        def visit(number: int) -> None:
            for other, _ in sorted(reads[number]):
                if other != number and other not in order:
                    visit(other)
            order[number] = None

        for number in range(len(groups)):
            if number not in order:
                visit(number)
        place = {number: at for at, number in enumerate(order)}
        upstream, waits = [0] * len(groups), [0] * len(groups)
        for number in order:
            at = place[number]
            for other, gap in reads[number]:
                if other != number:
                    upstream[at] |= upstream[place[other]] | 1 << place[other]
                    waits[at] |= upstream[place[other]] | gap << place[other]
        return [groups[number] for number in order], waits

    def _step(self, nodes: list[Node], place: Mapping[Node, int]) -> Loop | Node:
        if nodes[0].op == "matvec":
            return nodes[0]
        loop = Loop(_space(nodes[0]))
        for node in sorted(nodes, key=place.__getitem__):
            (loop.reductions if node.op in REDUCTIONS else loop.nodes).append(node)
        return loop

    def _buffers(self, steps: list[Loop | Node]) -> list[Node]:
        needed: dict[Node, None] = {}
        for step in steps:
            here = set() if isinstance(step, Node) else set(step.nodes)
            for user in [step] if isinstance(step, Node) else step.nodes + step.reductions:
                if user.op in REDUCTIONS or user.op == "matvec":
                    needed[user] = None
                for view in (self.views[arg] for arg in user.args):
                    if view.base.op not in LEAVES and view.base not in here:
                        needed[view.base] = None
                    elif view.base in here and not _identity(view, _space(user)):
                        raise AssertionError("a loop reads another element of what it computes")
        return list(needed)


def _space(node: Node) -> tuple[int, ...]:
    """The shape a node's loop runs over."""
    return node.args[0].shape if node.op in REDUCTIONS else node.shape


def _compose(node: Node, under: View) -> View | None:
    """The view `node` of something that itself lies at `under`; None if strides cannot express it."""
    shape, strides = node.args[0].shape, under.strides
    if node.op == "permute":
        return View(under.base, under.offset, tuple(strides[i] for i in node.attr))
    if node.op == "expand":
        return View(under.base, under.offset, tuple(0 if n == 1 else s for n, s in zip(shape, strides, strict=True)))
    if node.op == "slice":
        offset = under.offset + sum(a * s for a, s in zip(node.attr, strides, strict=True))
        return View(under.base, offset, tuple(0 if n == 1 else s for n, s in zip(node.shape, strides, strict=True)))
    new = _reshaped_strides(shape, strides, node.shape)
    return None if new is None else View(under.base, under.offset, new)


def _reshaped_strides(old: tuple[int, ...], strides: tuple[int, ...], new: tuple[int, ...]) -> tuple[int, ...] | None:
    """Strides of the same elements under another shape, or None where they are not evenly spaced."""
    runs: list[tuple[int, int]] = []
    for n, stride in zip(reversed(old), reversed(strides), strict=True):
        if runs and stride == runs[-1][0] * runs[-1][1]:
            runs[-1] = (n * runs[-1][0], runs[-1][1])
        elif n != 1:
            runs.append((n, stride))
    result: list[int] = []
    left, step, rest = 1, 0, iter(runs)
    for n in reversed(new):
        if n == 1:
            result.append(0)
            continue
        if left == 1:
            left, step = next(rest)
        if left % n:
            return None
        result.append(step)
        left, step = left // n, step * n
    return tuple(reversed(result))
