"""Launching a kernel: which one a call needs, how its work is dealt to threads, what its arguments are."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Mapping

import torch
from torch import Tensor

from recurra.compiler.codegen.arguments import packed_name, padded
from recurra.compiler.codegen.kernels import write_kernel
from recurra.compiler.codegen.product import Tile
from recurra.compiler.planning.plan import Plan
from recurra.compiler.planning.schedule import Schedule
from recurra.compiler.targets import cache
from recurra.engines.kernels import threads
from recurra.engines.kernels.call import Call, pitch_of, vector_width

REAL = {"float": torch.float32, "double": torch.float64, "bfloat": torch.bfloat16, "half": torch.float16}
LARGE = 16 * 2**20
"""Bytes of results that caches hardly hold until somebody reads them."""
SMALL = 20_000
"""Numbers computed below which a second thread costs more than it brings."""


def kernel_of(call: Call, reverse: bool, large: bool = False) -> cache.Loaded:
    """The kernel of a call, one way or the other; `large` where no cache holds the results until they are read."""
    plan = call.plan
    return cache.get(
        _key(call, reverse, large),
        lambda: write_kernel(plan, call.variant(reverse, large), call.width),
        lambda: f"{plan.listing}\n{call.variant(reverse, large)}",
    )


def _key(call: Call, reverse: bool, large: bool) -> str:
    known = call.keys.get((reverse, large))
    if known is None:
        plan, variant = call.plan, call.variant(reverse, large)
        facts = [plan.channel, plan.lanes, plan.real, call.width, variant, sorted(plan.states.items())]
        facts += [sorted(plan.leaves.items()), sorted(plan.outputs.items()), plan.outers]
        known = call.keys[reverse, large] = plan.listing + repr(facts)
    return known


def blocks_of(call: Call, batch: int, reverse: bool) -> tuple[int, int, int]:
    """(items, blocks of lanes per sequence, lanes per block)."""
    if not call.plan.channel:
        return -(-batch // call.rows) * call.plan.lanes, 1, 1
    lanes = call.plan.lanes
    blocks = -(-lanes // call.pitch)
    if reverse or _worth_splitting(call.plan):
        blocks = max(blocks, -(-threads.count() // batch))
    block = min(padded(-(-lanes // blocks), call.width), call.pitch)
    blocks = -(-lanes // block)
    return batch * blocks, blocks, block


def most_blocks(plan: Plan) -> int:
    """Into how many parts, at most, the lanes of one sequence go to threads on the way forward."""
    if not plan.channel:
        return plan.lanes
    split = _worth_splitting(plan)
    return -(-plan.lanes // vector_width(plan)) if split else -(-plan.lanes // pitch_of(plan))


def _worth_splitting(plan: Plan) -> bool:
    """Whether parts of a row of lanes may go to several threads on the way forward.

    One thread nearly fills the memory bus, and two that each read half of every row fetch most lines twice: it only
    pays where computing takes longer than fetching.
    """
    streams = sum(leaf.per_time and leaf.per_lane for leaf in plan.leaves.values()) + len(plan.outputs)
    cycles, fetching = plan.forward.instructions / (2 * vector_width(plan)), streams * 4 / 8
    return cycles > 2 * fetching


def launch(call: Call, reverse: bool, memory: Mapping[str, Tensor], batch: int, time: int) -> None:
    """Run a kernel over all items; `memory` holds every argument by name."""
    kernel = kernel_of(call, reverse, _is_large(call, reverse, memory))
    items, blocks, block = blocks_of(call, batch, reverse)
    integers = {"time": time, "batch": batch, "blocks": blocks, "block": block, "chunks": -(-time // call.chunk)}
    pointers = (ctypes.c_void_p * len(kernel.pointers))(*[memory[name].data_ptr() for name in kernel.pointers])
    numbers = (ctypes.c_int64 * len(kernel.integers))(
        *[integers[name] if axis is None else memory[name].stride(axis) for name, axis in _integers(kernel)]
    )
    wanted = threads.count() if batch * time * call.numbers * (1 + call.plan.products * 50) > SMALL else 1
    scratch = torch.empty(wanted, kernel.scratch + 16, dtype=REAL[call.plan.real], device="cpu")
    size = scratch.stride(0) * scratch.element_size()
    threads.run(threads.Task([kernel], [pointers], numbers, scratch.data_ptr(), size, items), wanted)


@functools.cache
def _integers(kernel: cache.Loaded) -> list[tuple[str, int | None]]:
    """What a kernel's integers are: a number by name, or the stride of a tensor along an axis."""
    found: list[tuple[str, int | None]] = []
    for name in kernel.integers:
        of, _, axis = name.rpartition(":")
        axes = "pbt" if f"{of}:p" in kernel.integers else "bth"
        found.append((of, axes.index(axis)) if of else (name, None))
    return found


def _is_large(call: Call, reverse: bool, memory: Mapping[str, Tensor]) -> bool:
    """Whether results are better written past the caches: they are large, and their rows are whole, aligned vectors."""
    plan = call.plan
    if not plan.channel or plan.lanes % call.width:
        return False
    written = [f"grad.{name}" for name in plan.leaves] if reverse else plan.outputs
    return sum(memory[name].nbytes for name in written if name in memory) >= LARGE


def packed_matrices(call: Call, schedule: Schedule, memory: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The matrices of the products, [lanes, k * m] each, in the panels of `Products.product`; m padded to vectors."""
    tile, packed = Tile.of(call.rows, call.width, call.plan.real), {}
    for product in schedule.products:
        view = schedule.views[product.args[0]]
        leaf, (m, k) = call.plan.leaves[view.base.attr], product.args[0].shape
        source = memory[leaf.name]
        source = source if leaf.per_lane else source[None]
        matrix = source.as_strided(
            (source.shape[0], m, k), (source.stride(0), *view.strides), source.storage_offset() + view.offset
        )
        columns = padded(m, call.width)
        panels, wide, _ = tile.panels(columns, call.width)
        whole = source.new_zeros(source.shape[0], k, columns)
        whole[:, :, :m] = matrix.transpose(1, 2)
        cut = whole[:, :, : panels * wide].reshape(source.shape[0], k, panels, wide).transpose(1, 2)
        left = whole[:, :, panels * wide :]
        packed[packed_name(schedule, product)] = torch.cat([cut.flatten(1), left.flatten(1)], 1)
    return packed
