"""A matrix memory from chunk to chunk as kernels of our own, the memories dealt out to the threads."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping

import torch
from torch import Tensor

from recurra.compiler.codegen.blocks import panel_size
from recurra.compiler.codegen.chunks import CHUNK, FORMS, write_chunks
from recurra.compiler.targets import cache
from recurra.engines.kernels import threads


def run_chunks(form: str, given: Mapping[str, Tensor], keep: bool, backward: bool = False) -> None:
    """Run all chunks of all memories, on tensors by the names of the kernel's pointers; see `codegen.chunks`.

    With `keep` all states are there, [N + 1, M, K, V], else one, which is written over.
    """
    assert form in FORMS
    states, (chunks, memories) = given["states"], given["v"].shape[:2]
    keys, values = states.shape[-2:]
    way = "backward" if backward else "forward"
    kernel = cache.get(
        f"chunks that {form} {way}", lambda: write_chunks(form, backward), lambda: f"a memory that {form}, {way}"
    )
    panel = panel_size(max(keys, values, 2 * CHUNK))
    sizes = (chunks, memories, keys, values, states.stride(0) if keep else 0, panel)
    pointers = (ctypes.c_void_p * len(kernel.pointers))(
        *(given[name].data_ptr() if name in given else None for name in kernel.pointers)
    )
    numbers = (ctypes.c_int64 * len(sizes))(*sizes)
    items = max(1, min(threads.count(), memories))
    scratch = torch.empty(items, panel + 5 * CHUNK * values + 16, dtype=torch.float32, device="cpu")
    size = scratch.stride(0) * scratch.element_size()
    threads.run(threads.Task([kernel], [pointers], numbers, scratch.data_ptr(), size, memories), items)
