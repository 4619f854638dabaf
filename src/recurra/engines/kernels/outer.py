"""Sums of outer products by a kernel of our own, its rows dealt out to the threads."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from recurra.compiler.codegen.outer import BLOCK, Sums, write_outer
from recurra.compiler.targets import cache, host
from recurra.engines.kernels import threads


def sum_of_outer(left: Tensor, right: Tensor) -> Tensor:
    """left^T right, of [R, M] and [R, N] to [M, N]: float32 on the CPU, the numbers of a row side by side."""
    (rows, m), n = left.shape, right.shape[1]
    tile, turned = (Sums.of(columns, host.vector_bytes() // 4) for columns in (n, m))
    # More of the left one's columns are copied than are used at once: better it is the narrower, if that fills tiles as
    # well.
    if (turned.padded(n, m), n) < (tile.padded(m, n), m):
        return sum_of_outer(right, left).t().contiguous()
    kernel = cache.get(f"sums of outer products {tile}", lambda: write_outer(tile), lambda: f"left^T right, {tile}")
    items = max(1, min(threads.count(), rows // (2 * BLOCK)))
    out = left.new_zeros(items, -(-m // tile.left) * tile.left, -(-n // tile.right) * tile.right)
    sizes = (rows, -(-rows // items), m, n, left.stride(0), right.stride(0), out.stride(1), out.stride(0))
    pointers = (ctypes.c_void_p * 3)(left.data_ptr(), right.data_ptr(), out.data_ptr())
    numbers = (ctypes.c_int64 * len(sizes))(*sizes)
    scratch = torch.empty(items, kernel.scratch + 16, dtype=torch.float32, device="cpu")
    size = scratch.stride(0) * scratch.element_size()
    threads.run(threads.Task([kernel], [pointers], numbers, scratch.data_ptr(), size, items), items)
    total = out[0] if items == 1 else out.sum(0)
    return total[:m, :n].contiguous()
