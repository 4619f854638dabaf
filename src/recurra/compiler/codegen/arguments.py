"""The arguments of kernels: what there is, and what memory each stands for."""

from __future__ import annotations

import math
import weakref
from dataclasses import dataclass
from enum import Enum

from recurra.compiler.frontend.graph import Node
from recurra.compiler.frontend.values import Leaf
from recurra.compiler.planning.plan import Plan
from recurra.compiler.planning.schedule import Schedule


class Kind(Enum):
    """Which axes an argument has, in the order of memory: channel layout | head layout, with s the shape of one lane.

    The last three hold partial sums that the caller adds up.
    """

    TIME_LANE = "[B, T, s, L | L, s]"
    TIME = "[B, T, s]"
    LANE = "[s, L | L, s]"
    ONE = "[s]"
    BATCH_LANE = "[B, s, L | L, s]"
    CHUNK = "[B, chunks, s, L | L, s]"
    PART_TIME = "[parts, B, T, s], one per block of lanes"
    PART_LANE = "[tiles, s, L | L, s], one per tile of sequences"
    PART = "[items, s], one per item"


@dataclass(frozen=True)
class Variant:
    """What a kernel is compiled for, besides its plan."""

    reverse: bool
    resets: bool
    lengths: bool
    save: bool
    """Whether the forward kernel stores what the reverse one needs."""
    rows: int
    """Sequences per item (head layout)."""
    pitch: int
    """Most lanes per item (channel layout)."""
    chunk: int
    """Time steps between stored states."""
    past_caches: bool = False
    """Whether results of every time step go to memory past the caches (channel layout, whole vectors only)."""


@dataclass(frozen=True)
class Output:
    """One result of a schedule: where it goes and how."""

    name: str
    kind: Kind
    shape: tuple[int, ...]
    scalar: str

    @property
    def size(self) -> int:
        return math.prod(self.shape)


def leaf_kind(leaf: Leaf) -> Kind:
    """The kind of argument a leaf is."""
    if leaf.per_time:
        return Kind.TIME_LANE if leaf.per_lane else Kind.TIME
    return Kind.LANE if leaf.per_lane else Kind.ONE


def gradient_outputs(plan: Plan) -> tuple[Output, ...]:
    """Every gradient the reverse kernel writes, besides the adjoint of the state."""
    if plan not in _found:
        _found[plan] = _gradient_outputs(plan)
    return _found[plan]


_found: weakref.WeakKeyDictionary[Plan, tuple[Output, ...]] = weakref.WeakKeyDictionary()


def _gradient_outputs(plan: Plan) -> tuple[Output, ...]:
    parts = {Kind.TIME_LANE: Kind.TIME_LANE, Kind.TIME: Kind.PART_TIME, Kind.LANE: Kind.PART_LANE, Kind.ONE: Kind.PART}
    taken = {outer.leaf for outer in plan.outers}
    written = {p.target for places in plan.reverse.places.values() for p in places}
    outputs = []
    for name, leaf in plan.leaves.items():
        if f"grad.{name}" in written and name not in taken:
            kind = parts[leaf_kind(leaf)]
            scalar = leaf.scalar if kind is Kind.TIME_LANE else plan.real
            outputs.append(Output(f"grad.{name}", kind, leaf.shape, scalar))
    factors = {n: size for o in plan.outers for n, size in zip((o.left, o.right), o.sizes, strict=True)}
    own = {n: size for n, size in factors.items() if n.startswith(("left.", "right."))}
    return (*outputs, *(Output(n, Kind.TIME_LANE, (size,), plan.real) for n, size in own.items()))


def packed_name(schedule: Schedule, product: Node) -> str:
    """The argument that holds a product's matrix, packed."""
    view = schedule.views[product.args[0]]
    return f"matrix:{view.base.attr}:{view.offset}:{view.strides}:{product.args[0].shape}"


def padded(size: int, width: int) -> int:
    """`size` rounded up to whole vectors."""
    return -(-size // width) * width
