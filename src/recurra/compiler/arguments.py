"""The arguments of kernels: what there is, and what memory each stands for.

Arguments are named; `kind` says which axes one has, in the order of memory (channel layout | head layout, s the
shape of one lane): "time lane" [B, T, s, L | L, s]; "time" [B, T, s]; "lane" [s, L | L, s]; "one" [s]; "batch lane"
[B, s, L | L, s]; "chunk" [B, chunks, s, L | L, s]; "part time" [parts, B, T, s], "part lane" [tiles, s, L | L, s] and
"part" [items, s] hold partial sums, one per block of lanes, tile of sequences or item, that the caller adds up.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

from recurra.compiler.graph import Node
from recurra.compiler.plan import Leaf, Plan
from recurra.compiler.schedule import Schedule


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
    kind: str
    shape: tuple[int, ...]
    scalar: str

    @property
    def size(self) -> int:
        return math.prod(self.shape)


def leaf_kind(leaf: Leaf) -> str:
    """The kind of argument a leaf is."""
    return ("time lane" if leaf.per_lane else "time") if leaf.per_time else ("lane" if leaf.per_lane else "one")


@functools.cache
def gradient_outputs(plan: Plan) -> tuple[Output, ...]:
    """Every gradient the reverse kernel writes, besides the adjoint of the state."""
    parts = {"time lane": "time lane", "time": "part time", "lane": "part lane", "one": "part"}
    taken = {outer.leaf for outer in plan.outers}
    written = {p.target for places in plan.reverse.places.values() for p in places}
    outputs = []
    for name, leaf in plan.leaves.items():
        if f"grad.{name}" in written and name not in taken:
            kind = parts[leaf_kind(leaf)]
            scalar = leaf.scalar if kind == "time lane" else plan.real
            outputs.append(Output(f"grad.{name}", kind, leaf.shape, scalar))
    for outer in plan.outers:
        m, k = plan.leaves[outer.leaf].shape
        own = {outer.left: m, outer.right: k}
        outputs += [
            Output(n, "time lane", (size,), plan.real) for n, size in own.items() if n.startswith(("left.", "right."))
        ]
    return tuple(outputs)


def packed_name(schedule: Schedule, product: Node) -> str:
    """The argument that holds a product's matrix, packed."""
    view = schedule.views[product.args[0]]
    return f"matrix:{view.base.attr}:{view.offset}:{view.strides}:{product.args[0].shape}"


def padded(size: int, width: int) -> int:
    """`size` rounded up to whole vectors."""
    return -(-size // width) * width
