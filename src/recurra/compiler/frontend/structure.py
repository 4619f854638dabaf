"""What is true of a step, found from its graph: affine in the state or not, and how its Jacobian is filled.

Nothing here is declared by the author of a recurrence. Whether a step is affine follows from the operations its state
goes through; which state influences which is followed element by element; what its coefficients depend on is read off
the graph of the Jacobian.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from recurra.compiler.frontend.derive import vector_jacobian
from recurra.compiler.frontend.graph import Node, topological
from recurra.compiler.frontend.trace import Traced
from recurra.compiler.frontend.values import Leaf, parts

LARGEST = 16384
"""States per lane up to which influence is followed element by element; beyond, a lane counts as dense."""
LINEAR = {"neg", "copy", "add", "sub", "reshape", "permute", "expand", "slice", "sum", "assemble"}


@dataclass(frozen=True)
class Structure:
    """How the next state depends on the state, within one lane."""

    affine: bool
    """next = A state + b, where A and b do not depend on the state."""
    constant: bool
    """A (or the Jacobian) reads nothing that changes in time."""
    invariant: bool
    """Linear and time-invariant: next state and output are affine in state and inputs, with constant coefficients."""
    kind: str
    """The Jacobian of a lane: "scalar" (one number, real or complex), "diagonal", "block" or "dense"."""
    size: int
    """Real numbers of state per lane."""
    block: int
    """Real numbers in the largest set of states that influence each other."""
    obstacle: str | None
    """What makes the step not affine: the operation, and the line it is written in."""
    groups: tuple[tuple[int, ...], ...]
    """The sets of states that influence each other, as positions in the flattened state of a lane."""

    def __str__(self) -> str:
        filled = {
            "scalar": "scalar",
            "diagonal": f"diagonal of {self.size}",
            "dense": f"dense {self.size} x {self.size}",
        }
        filled["block"] = f"blocks of {self.block} in {self.size}"
        if self.affine:
            return f"affine in the state, {filled[self.kind]}, {'constant' if self.constant else 'changing'} in time"
        return f"nonlinear in the state ({self.obstacle}), {filled[self.kind]}"


def structure(traced: Traced, leaves: Mapping[str, Leaf]) -> Structure:
    """The structure of a traced step, whose leaves say what changes in time."""
    states, after = flat_states(traced)
    groups = _groups(states, after)
    block = max(map(len, groups), default=0)
    obstacle = _obstacle(traced, list(after.values()), states)
    size = sum(node.size for node in states.values())
    return Structure(
        affine=obstacle is None,
        constant=_constant(traced, list(after.values()), list(states.values()), leaves),
        invariant=_invariant(traced, after, states, leaves),
        kind=_kind(groups, states),
        size=size,
        block=block,
        obstacle=obstacle,
        groups=groups,
    )


def flat_states(traced: Traced) -> tuple[dict[str, Node], dict[str, Node]]:
    """Every real state by name, before and after the step, in one order."""
    before, after = {}, {}
    for name, value in traced.states.items():
        before |= parts(name, traced.inputs[f"state.{name}"])
        after |= parts(name, value)
    return before, after


# --- affine? ------------------------------------------------------------------------------------------------------
def degrees(outputs: list[Node], variables: set[Node]) -> dict[Node, int]:
    """For every node that `outputs` need: 0 independent of `variables`, 1 affine in them, 2 anything else."""
    degree: dict[Node, int] = {}
    for node in topological(outputs):
        args = [degree[arg] for arg in node.args]
        if node in variables:
            degree[node] = 1
        elif not any(args):
            degree[node] = 0
        elif node.op in LINEAR:
            degree[node] = max(args)
        elif node.op in ("mul", "matvec"):
            degree[node] = min(2, sum(args))
        elif node.op == "slope":
            degree[node] = 2 if args[1] else args[0]
        elif node.op == "div" or (node.op == "where" and not node.is_bool):
            fixed, free = (args[1:], args[:1]) if node.op == "div" else (args[:1], args[1:])
            degree[node] = 2 if any(fixed) else max(free)
        else:
            degree[node] = 2
    return degree


def _obstacle(traced: Traced, outputs: list[Node], states: Mapping[str, Node]) -> str | None:
    """The first operation that is not affine in the state, with its line; None if there is none."""
    degree = degrees(outputs, set(states.values()))
    if all(degree[node] < 2 for node in outputs):
        return None
    culprit = next(n for n in degree if degree[n] == 2 and all(degree[arg] < 2 for arg in n.args))
    line = traced.lines.get(culprit)
    return f"{culprit.op} of the state" + (f" at {line}" if line else "")


def _constant(traced: Traced, outputs: list[Node], variables: list[Node], leaves: Mapping[str, Leaf]) -> bool:
    """Whether the derivatives of `outputs` by `variables` read neither the state nor anything that changes in time."""
    graph = traced.graph
    seeds = {node: graph.input(f"adjoint.{i}", node.shape) for i, node in enumerate(outputs)}
    pulled = vector_jacobian(graph, seeds, variables)
    return not any(node.op == "input" and _moves(node, leaves) for node in topological(pulled))


def _moves(node: Node, leaves: Mapping[str, Leaf]) -> bool:
    return node.attr.startswith("state.") or (node.attr in leaves and leaves[node.attr].per_time)


def _invariant(
    traced: Traced, after: Mapping[str, Node], states: Mapping[str, Node], leaves: Mapping[str, Leaf]
) -> bool:
    outputs = [*after.values(), *parts("y", traced.y).values()]
    signals = [n for n in topological(outputs) if n.op == "input" and n not in states.values() and _moves(n, leaves)]
    variables = [*states.values(), *signals]
    degree = degrees(outputs, set(variables))
    return (
        not any(node.is_bool for node in signals)
        and all(degree[node] < 2 for node in outputs)
        and _constant(traced, outputs, variables, leaves)
    )


# --- which state influences which? --------------------------------------------------------------------------------
def _groups(states: Mapping[str, Node], after: Mapping[str, Node]) -> tuple[tuple[int, ...], ...]:
    """Connected sets of flattened state elements."""
    size = sum(node.size for node in states.values())
    if size > LARGEST:
        return (tuple(range(size)),)
    influence = _influence(states, list(after.values()), size) | _identity(size, 0, size)
    home = np.arange(size)
    for bits in {row.tobytes() for row in influence}:
        merged = np.unique(home[np.flatnonzero(np.unpackbits(np.frombuffer(bits, np.uint8), count=size))])
        if len(merged) > 1:
            home[np.isin(home, merged)] = merged[0]
    return tuple(tuple(map(int, np.flatnonzero(home == root))) for root in np.unique(home))


def _influence(states: Mapping[str, Node], outputs: list[Node], size: int) -> np.ndarray:
    """For every element of `outputs`, as a row of bits, the state elements it may depend on."""
    width = -(-size // 8)
    bits: dict[Node, np.ndarray | None] = {}
    first = 0
    for node in states.values():
        bits[node] = _identity(node.size, first, size).reshape(*node.shape, width)
        first += node.size
    order = topological(outputs)
    readers = Counter(arg for node in order for arg in node.args)
    readers.update(outputs)
    for node in order:
        if node not in bits:
            bits[node] = _follow(node, [bits[arg] for arg in node.args], width)
        for arg in node.args:
            readers[arg] -= 1
            if not readers[arg]:
                del bits[arg]  # Large states: only what is still read is kept.
    rows = []
    for node in outputs:
        found = bits[node]
        rows.append(np.zeros((node.size, width), np.uint8) if found is None else found.reshape(node.size, width))
    return np.concatenate(rows)


def _identity(rows: int, first: int, size: int) -> np.ndarray:
    """Rows of bits, each with one: `first` in the first row, the next in the next; `size` bits in a row."""
    bits, at = np.zeros((rows, -(-size // 8)), np.uint8), first + np.arange(rows)
    bits[np.arange(rows), at // 8] = 128 >> at % 8
    return bits


def _follow(node: Node, args: list[np.ndarray | None], width: int) -> np.ndarray | None:
    """The bits of a node from those of its arguments; None where nothing depends on the state."""
    known = [arg for arg in args if arg is not None]
    if not known:
        return None
    if node.op == "assemble":
        whole = np.zeros((*node.shape, width), np.uint8)
        for part, at, bits in zip(node.args, node.attr, args, strict=True):
            if bits is not None:
                whole[tuple(slice(a, a + n) for a, n in zip(at, part.shape, strict=True))] = bits
        return whole
    if node.op == "matvec":
        terms = [bits if bits.ndim == 3 else bits[None] for bits in known]
        spread = np.broadcast_to(np.bitwise_or.reduce(terms) if len(terms) == 1 else terms[0] | terms[1],
                                 (*node.args[0].shape, width))  # fmt: skip
        return np.bitwise_or.reduce(spread, axis=1)
    if node.op in ("sum", "max"):
        return np.bitwise_or.reduce(known[0], axis=tuple(node.attr)) if node.attr else known[0]
    if node.op == "reshape":
        return known[0].reshape(*node.shape, width)
    if node.op == "permute":
        return known[0].transpose(*node.attr, len(node.attr))
    if node.op == "slice":
        return known[0][tuple(slice(a, a + n) for a, n in zip(node.attr, node.shape, strict=True))]
    total = known[0]
    for bits in known[1:]:
        total = total | bits
    return np.broadcast_to(total, (*node.shape, width))


def _kind(groups: tuple[tuple[int, ...], ...], states: Mapping[str, Node]) -> str:
    """The name of how the Jacobian is filled; a complex number counts as one."""
    unit, first = {}, 0
    for name, node in states.items():
        base = name.removesuffix(".real").removesuffix(".imag")
        for i in range(node.size):
            unit[first + i] = (base, i)
        first += node.size
    largest = max(len({unit[i] for i in group}) for group in groups)
    total = len(set(unit.values()))
    if largest == 1:
        return "scalar" if total == 1 else "diagonal"
    return "dense" if largest == total else "block"


# --- the Jacobian as graphs ---------------------------------------------------------------------------------------
def jacobian_rows(traced: Traced, groups: tuple[tuple[int, ...], ...]) -> list[list[Node]]:
    """Row r of every group's block of the Jacobian, for all groups at once.

    `rows[r][k]` has the shape of the k-th real state; its element j is the derivative, by state j, of the r-th state
    of the group that j is in. Exact where `groups` are the sets of states that influence each other.
    """
    states, after = flat_states(traced)
    graph, rows = traced.graph, []
    for r in range(max(map(len, groups), default=0)):
        chosen = {group[r] for group in groups if r < len(group)}
        seeds, first = {}, 0
        for node in after.values():
            marked = [i for i in range(node.size) if first + i in chosen]
            first += node.size
            if marked:
                seed = _ones_at(traced, marked, node.shape)
                seeds[node] = graph.pointwise("add", seeds[node], seed) if node in seeds else seed
        rows.append(vector_jacobian(graph, seeds, list(states.values())))
    return rows


def _ones_at(traced: Traced, marked: list[int], shape: tuple[int, ...]) -> Node:
    """1 at the flattened positions `marked`, 0 elsewhere."""
    graph, one = traced.graph, traced.graph.constant(1.0)
    size = math.prod(shape)
    if len(marked) == size:
        return graph.expand(one, shape)
    zero = graph.constant(0.0)
    flat = graph.concat([graph.reshape(one if i in set(marked) else zero, (1,)) for i in range(size)], 0)
    return graph.reshape(flat, shape)
