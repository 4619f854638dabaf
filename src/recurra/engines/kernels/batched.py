"""Products of many small matrices by a kernel of our own, dealt out to the threads."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from recurra.compiler.codegen.blocks import INTEGERS, panel_size, write_products
from recurra.compiler.targets import cache
from recurra.engines.kernels import threads


def batched(left: Tensor, right: Tensor) -> Tensor:
    """left right, of [N, M, K] and [N, K, J] to [N, M, J]: float32 on the CPU, the right one's rows or columns with
    their numbers side by side."""
    (number, m, k), n = left.shape, right.shape[2]
    kernel = cache.get("products", write_products, lambda: "a b, many times")
    out = left.new_empty(number, m, n)
    sizes = (*left.stride(), *right.stride(), *out.stride(), m, n, k)
    assert len(sizes) == len(INTEGERS)
    pointers = (ctypes.c_void_p * 3)(left.data_ptr(), right.data_ptr(), out.data_ptr())
    numbers = (ctypes.c_int64 * len(sizes))(*sizes)
    items = max(1, min(threads.count(), number))
    scratch = torch.empty(items, panel_size(k), dtype=torch.float32, device="cpu")
    size = scratch.stride(0) * scratch.element_size()
    threads.run(threads.Task([kernel], [pointers], numbers, scratch.data_ptr(), size, number), items)
    return out
