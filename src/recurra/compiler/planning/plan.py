"""A recurrence made ready for code generation: its step and the derivative of its step as schedules.

Two schedules come out. "forward" computes `next.<state>` and `y` from `state.<state>`, `input.<name>` and
`weight.<name>`. "reverse" computes, from the same and from `adjoint.<state>` (the gradient of the next state) and
`grad.y`, `before.<state>` (the gradient of the state before) and `grad.<leaf>`. Complex values appear as
`<name>.real` and `<name>.imag`.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from recurra.compiler.frontend.derive import vector_jacobian
from recurra.compiler.frontend.graph import Graph, Node, listing, replaced, topological, unmarked
from recurra.compiler.frontend.trace import Traced
from recurra.compiler.frontend.values import Leaf, parts
from recurra.compiler.planning.regroup import regroup
from recurra.compiler.planning.schedule import COST, Schedule, expand_products, schedule

COSTLY = 20
"""Instructions from which on a value is kept rather than computed twice on the way back."""
MOST_KEPT = 1.5
"""Times as many numbers as products hold may be kept in their place."""


@dataclass(frozen=True)
class Outer:
    """A gradient that is a sum over time of outer products: taken after the loop as one matrix product.

    `left` and `right` name what the two vectors of every time step are kept under; `sizes` are theirs.
    """

    leaf: str
    left: str
    right: str
    sizes: tuple[int, int]


@dataclass(frozen=True, eq=False)
class Origin:
    """What a plan is made from."""

    graph: Graph
    outputs: Mapping[str, Node]
    """`next.<state>` for every state, and the parts of y."""
    leaves: Mapping[str, Leaf]
    """Every leaf that is not a state, by the name it has in the graph."""
    channel: bool
    lanes: int
    storage: str
    """How y is stored: float, double, bfloat or half."""
    needs: frozenset[str]
    """Names of the leaves whose gradient will be asked for."""


@dataclass(frozen=True, eq=False)
class Plan:
    """All that code generation needs to know. A plan equals itself only."""

    origin: Origin
    channel: bool
    """Whether lanes are channels (vectorised across lanes) or hold vectors themselves (vectorised within)."""
    lanes: int
    real: str
    states: dict[str, tuple[int, ...]]
    leaves: dict[str, Leaf]
    outputs: dict[str, tuple[tuple[int, ...], str]]
    """The parts of y by name, with how they are stored."""
    graph: Graph
    forward: Schedule
    recompute: Schedule
    """Forward without y and without what is kept, but with what is recalled."""
    reverse: Schedule
    kept: dict[str, Node]
    """`saved.<i>` -> a value of the forward schedule that the way back reads under that name, see `_worth_keeping`."""
    recalled: dict[str, tuple[int, ...]]
    """`recalled.<i>` -> the shape of a value that states are computed again with and that the derivative needs as well,
    so costly that it is kept in between: exponentials, over channels."""
    outers: list[Outer]
    listing: str
    """Both graphs as text; the same text means the same kernel."""
    calls: dict[Hashable, Any] = field(default_factory=dict)
    """What has been found out about calling it."""

    @property
    def products(self) -> int:
        """Of matrices that do not change in time by vectors, how many there are in a step."""
        return len(self.forward.products)

    @property
    def stores_every_state(self) -> bool:
        """Whether the states before every step are stored, not one per chunk: where products would have to be computed
        again, and where a state is a factor of a gradient taken after the loop."""
        factors = [side for outer in self.outers for side in (outer.left, outer.right)]
        return bool(self.products) or any(side.startswith("stored.") for side in factors)

    @cached_property
    def moving(self) -> frozenset[str]:
        """The leaves that have a gradient: no product with zero, but a way from a result to them."""
        written = {place.target for places in self.reverse.places.values() for place in places}
        return frozenset(name for name in self.leaves if f"grad.{name}" in written) | {o.leaf for o in self.outers}

    def leaf(self, name: str) -> Node:
        """The input of the graph that holds a state or an adjoint."""
        return self.graph.input(name, self.states[name.split(".", 1)[1]])


def make_plan(
    traced: Traced, leaves: Mapping[str, Leaf], channel: bool, lanes: int, storage: str, needs: frozenset[str]
) -> Plan:
    """Derive, expand and schedule.

    Args:
        storage: how y is stored: float, double, bfloat or half.
        leaves: every leaf of the trace that is not a state, by the name it has in the graph.
        needs: names of the leaves whose gradient will be asked for.
    """
    after = {k: n for name, value in traced.states.items() for k, n in parts(f"next.{name}", value).items()}
    return planned(Origin(traced.graph, after | parts("y", traced.y), leaves, channel, lanes, storage, needs))


def planned(origin: Origin) -> Plan:
    """The plan of an origin, of which the same one always gives the same plan."""
    graph, leaves, channel, storage = origin.graph, origin.leaves, origin.channel, origin.storage
    after = {name: node for name, node in origin.outputs.items() if name.startswith("next.")}
    y = {name: node for name, node in origin.outputs.items() if name not in after}
    fixed = set() if channel else {leaf.name for leaf in leaves.values() if not leaf.per_time}
    outputs = regroup(graph, expand_products(graph, after | y, fixed))
    states = {name.removeprefix("next."): outputs[name].shape for name in after}
    used = [leaf for name, leaf in sorted(leaves.items()) if name in origin.needs and _used(name, outputs)]
    gradients = unmarked(graph, _gradients(graph, outputs, states, used))
    gradients = {n: node for n, node in gradients.items() if n.startswith("before.") or graph.value(node) != 0.0}
    gradients = regroup(graph, expand_products(graph, gradients, fixed))
    read = {name: leaf for name, leaf in leaves.items() if _used(name, outputs)}
    outputs = unmarked(graph, outputs)
    kept = {f"saved.{i}": node for i, node in enumerate(_worth_keeping(graph, outputs, gradients, channel))}
    saved = {node: graph.input(name, node.shape) for name, node in kept.items()}
    gradients = replaced(graph, gradients, saved)
    gradients, outers = _outer_products(graph, gradients, leaves, fixed)
    again = {name: n for name, n in replaced(graph, outputs, saved).items() if name.startswith("next.")}
    needed = set(topological(gradients.values()))
    costly = [n for n in topological(again.values()) if n in needed and COST.get(n.op, 1) >= COSTLY] if channel else []
    recalled = {f"recalled.{i}": node for i, node in enumerate(costly)}
    gradients = replaced(graph, gradients, {node: graph.input(n, node.shape) for n, node in recalled.items()})
    real = "double" if storage == "double" else "float"
    return Plan(
        origin,
        channel,
        origin.lanes,
        real,
        states,
        read,
        {name: (node.shape, real if name.endswith((".real", ".imag")) else storage) for name, node in y.items()},
        graph,
        schedule(outputs),
        schedule(again | recalled),
        schedule(gradients),
        kept,
        {name: node.shape for name, node in recalled.items()},
        outers,
        listing(outputs) + listing(gradients),
    )


def _worth_keeping(
    graph: Graph, outputs: Mapping[str, Node], gradients: Mapping[str, Node], channel: bool
) -> list[Node]:
    """What the way forward keeps for the way back: products, and sums over matrices within a lane; or, instead of
    products that then nobody needs, the costly values that are made of them."""
    nodes, read = topological(outputs.values()), set(topological(gradients.values()))
    products = [n for n in nodes if n.op == "matvec" or (not channel and _condenses(n))]
    if channel or not any(n.op == "matvec" for n in products):
        return products
    products = _sums_instead(graph, nodes, gradients, products)
    costly = [n for n in nodes if n in read and COST.get(n.op, 1) >= COSTLY]
    without = replaced(graph, gradients, {n: graph.input(f"saved {i}", n.shape) for i, n in enumerate(costly)})
    left = set(topological(without.values()))
    instead = [*costly, *(n for n in products if n in left)]
    return instead if sum(n.size for n in instead) <= MOST_KEPT * sum(n.size for n in products) else products


def _sums_instead(graph: Graph, nodes: list[Node], gradients: Mapping[str, Node], products: list[Node]) -> list[Node]:
    """For products, what they are added up to, if that is no more and will do: what is added need not be read again."""
    sums: set[Node] = set(products)
    for node in nodes:
        if node.op == "add" and not sums.isdisjoint(node.args):
            sums.add(node)
    inner = {arg for node in sums for arg in node.args if node.op == "add"}
    ends = [node for node in nodes if node in sums - inner]
    without = replaced(graph, gradients, {n: graph.input(f"saved {i}", n.shape) for i, n in enumerate(ends)})
    left = set(topological(without.values()))
    instead = [*ends, *(n for n in products if n in left)]
    return instead if sum(n.size for n in instead) <= sum(n.size for n in products) else products


def _condenses(node: Node) -> bool:
    """Whether a value is a sum over a matrix, with at most an eighth of its elements."""
    return node.op == "sum" and len(node.args[0].shape) > 1 and node.args[0].size >= 8 * node.size


def _used(name: str, outputs: Mapping[str, Node]) -> bool:
    return any(node.op == "input" and node.attr == name for node in topological(outputs.values()))


def _gradients(
    graph: Graph, outputs: Mapping[str, Node], states: Mapping[str, tuple[int, ...]], leaves: list[Leaf]
) -> dict[str, Node]:
    """`before.<state>` and `grad.<leaf>`: the vector-Jacobian product of one step."""
    cotangents: dict[Node, Node] = {}
    for name, node in outputs.items():
        incoming = graph.input(
            name.replace("next.", "adjoint.") if name.startswith("next.") else f"grad.{name}", node.shape
        )
        cotangents[node] = graph.pointwise("add", cotangents[node], incoming) if node in cotangents else incoming
    names = [f"before.{name}" for name in states] + [f"grad.{leaf.name}" for leaf in leaves]
    inputs = [graph.input(f"state.{name}", shape) for name, shape in states.items()]
    inputs += [graph.input(leaf.name, leaf.shape) for leaf in leaves]
    return dict(zip(names, vector_jacobian(graph, cotangents, inputs), strict=True))


def _outer_products(
    graph: Graph, gradients: dict[str, Node], leaves: Mapping[str, Leaf], fixed: set[str]
) -> tuple[dict[str, Node], list[Outer]]:
    """Take every gradient of a fixed leaf that is a sum of outer products of vectors apart into those vectors."""
    result: dict[str, Node] = {}
    outers: list[Outer] = []
    kept: dict[Node, str] = {}
    for name, node in gradients.items():
        leaf = name.removeprefix("grad.")
        pairs = _pairs(graph, node) if leaf in fixed and name.startswith("grad.") else None
        if pairs is None:
            result[name] = node
            continue
        for left, right in pairs:
            number = len(outers)
            for own, side in ((f"left.{number}", left), (f"right.{number}", right)):
                if side not in kept:
                    known = _already_kept(side, gradients, leaves) or _as_stored(side) or _as_given(side, leaves)
                    kept[side] = known or own
                    result |= {} if known else {own: side}
            outers.append(Outer(leaf, kept[left], kept[right], (left.size, right.size)))
    return result, outers


def _already_kept(node: Node, gradients: Mapping[str, Node], leaves: Mapping[str, Leaf]) -> str | None:
    """The gradient of an input, written for every time step anyway, that is this very value."""
    for name, other in gradients.items():
        leaf = leaves.get(name.removeprefix("grad."))
        if other is node and leaf and leaf.per_time and leaf.per_lane and leaf.scalar in ("float", "double"):
            return name
    return None


def _as_stored(node: Node) -> str | None:
    """The states before every step, if this is one of them: a plan that names them has them stored."""
    is_state = node.op == "input" and node.attr.startswith("state.") and len(node.shape) == 1
    return node.attr.replace("state.", "stored.", 1) if is_state else None


def _as_given(node: Node, leaves: Mapping[str, Leaf]) -> str | None:
    """The input that this is, if it is a vector of every lane and time step in the type of arithmetic."""
    leaf = leaves.get(node.attr) if node.op == "input" and len(node.shape) == 1 else None
    return leaf.name if leaf and leaf.per_time and leaf.per_lane and leaf.scalar in ("float", "double") else None


def _pairs(graph: Graph, node: Node) -> list[tuple[Node, Node]] | None:
    """(left, right) vectors whose outer products sum to `node`, or None."""
    if node.op == "add" and all(arg.shape == node.shape for arg in node.args):
        first, second = (_pairs(graph, arg) for arg in node.args)
        return None if first is None or second is None else first + second
    if node.op == "reshape" and len(node.args[0].shape) == 2 < len(node.shape):
        # Of a weight that the step reads as a batch of one.
        return _pairs(graph, node.args[0])
    if node.op == "permute" and node.attr == (1, 0):
        # Of a weight that the step reads transposed.
        turned = _pairs(graph, node.args[0])
        return None if turned is None else [(right, left) for left, right in turned]
    if node.op != "mul" or len(node.shape) != 2:
        return None
    (m, k), (a, b) = node.shape, node.args
    if a.shape == (1, k) and b.shape == (m, 1):
        a, b = b, a
    if a.shape != (m, 1) or b.shape != (1, k):
        return None
    return [(graph.reshape(a, (m,)), graph.reshape(b, (k,)))]
