"""`torch.nn.utils.rnn.PackedSequence` in and out."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from recurra.errors import InputError


def through(
    module: nn.Module, x: PackedSequence, state: Any, *, lengths: Any = None, **options: Any
) -> tuple[Any, ...]:
    """Call a module on packed sequences: y is packed as x is, all else has its rows in the order of the caller.

    Other arguments over time may be packed as well, or padded [B, T, ...] in the order of the caller.

    Raises InputError if there are `lengths` as well.
    """
    if lengths is not None:
        raise InputError("lengths was given with a PackedSequence, which has its own: leave it out")
    padded, lengths = pad_packed_sequence(x, batch_first=True)
    options = {name: _padded(value) for name, value in options.items()}
    y, *rest = module(padded, state, lengths=lengths.to(padded.device), **options)
    order = torch.arange(len(lengths), device=y.device) if x.sorted_indices is None else x.sorted_indices
    data = pack_padded_sequence(y[order], lengths[order.cpu()], batch_first=True).data
    return PackedSequence(data, x.batch_sizes, x.sorted_indices, x.unsorted_indices), *rest


def _padded(value: Any) -> Any:
    return pad_packed_sequence(value, batch_first=True)[0] if isinstance(value, PackedSequence) else value
