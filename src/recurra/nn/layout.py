"""How the sequences of a call lie: padded, packed or one alone, as `torch.nn`'s recurrent modules take them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from recurra import check
from recurra.errors import InputError


class Padded:
    """x [T, B, D], [B, T, D] with `batch_first`, or [T, D]: one sequence alone."""

    batch_sizes = lengths = None

    def __init__(self, x: Tensor, batch_first: bool):
        self._alone, self._time_first = x.dim() == 2, not batch_first
        self.x = x.unsqueeze(0 if batch_first else 1) if self._alone else x
        """[T, B, D] or, with `batch_first`, [B, T, D]."""

    def rows(self, x: Tensor) -> Tensor:
        """What lies as x does, as [B, T, ...]."""
        return x.transpose(0, 1) if self._time_first else x

    def noise(self, x: Tensor, p: float) -> Tensor:
        """Rows of 0 and 1 / (1 - p), one for each number of the rows x, drawn in the order of `torch.nn`."""
        noise = torch.nn.functional.dropout(x.new_ones(x.shape[1], x.shape[0], x.shape[2]), p)
        return noise.transpose(0, 1)

    def resets(self, resets: Tensor) -> Tensor:
        """Where sequences start, [B, T]; they lie as x does, without its last axis."""
        resets = resets[:, None] if self._alone and resets.dim() == 1 else resets
        rows = resets.transpose(0, 1) if resets.dim() == 2 and (self._time_first or self._alone) else resets
        checked = check.resets(rows, self.rows(self.x))
        assert checked is not None
        return checked

    def given(self, state: Tensor) -> Tensor:
        """A state of the caller's with a batch axis. Raises RuntimeError if it has too many axes, or too few."""
        if state.dim() != 3 - self._alone:
            what = "unbatched 2-D" if self._alone else "batched 3-D"
            raise RuntimeError(
                f"For {what} input, hx should also be {3 - self._alone}-D but got {state.dim()}-D tensor"
            )
        return state.unsqueeze(1) if self._alone else state

    def returned(self, state: Tensor) -> Tensor:
        """A state as the caller's."""
        return state.squeeze(1) if self._alone else state

    def result(self, y: Tensor) -> Tensor:
        """The rows y as x lay."""
        y = y.transpose(0, 1).contiguous() if self._time_first else y
        return y.squeeze(1 if self._time_first else 0) if self._alone else y


class Packed:
    """Sequences packed by `torch.nn.utils.rnn`: inside, the longest come first."""

    def __init__(self, packed: PackedSequence):
        self.x, self.batch_sizes, self._order, self._back = packed
        self.lengths = pad_packed_sequence(self._packed(self.x), batch_first=True)[1].to(self.x.device)

    def rows(self, x: Tensor) -> Tensor:
        """What is packed as x is, as [B, T, ...] with zeros behind each sequence."""
        return pad_packed_sequence(self._packed(x), batch_first=True)[0]

    def noise(self, x: Tensor, p: float) -> Tensor:
        """As `Padded.noise`."""
        return self.rows(torch.nn.functional.dropout(x.new_ones(len(self.x), x.shape[2]), p))

    def resets(self, resets: Tensor) -> Tensor:  # noqa: ARG002
        """Raises InputError: there is no place for them."""
        raise InputError("resets were given with a PackedSequence; expected a tensor as input: pad it, or pack less")

    def given(self, state: Tensor) -> Tensor:
        """A state of the caller's in the order of the pack."""
        return state if self._order is None else state.index_select(1, self._order)

    def returned(self, state: Tensor) -> Tensor:
        """A state in the order of the caller's."""
        return state if self._back is None else state.index_select(1, self._back)

    def result(self, y: Tensor) -> PackedSequence:
        """The rows y, packed as x was."""
        data = pack_padded_sequence(y, self.lengths.cpu(), batch_first=True).data
        return PackedSequence(data, self.batch_sizes, self._order, self._back)

    def _packed(self, x: Tensor) -> PackedSequence:
        return PackedSequence(x, self.batch_sizes)


def layout_of(x: Any, batch_first: bool, owner: str) -> Padded | Packed:
    """The layout of what a module was called with. Raises ValueError for a tensor of other than two or three axes."""
    if isinstance(x, PackedSequence):
        return Packed(x)
    if not isinstance(x, Tensor):
        raise InputError(f"input is {check.describe(x)}; expected a tensor or a PackedSequence")
    if x.dim() not in (2, 3):
        raise ValueError(f"{owner}: Expected input to be 2D or 3D, got {x.dim()}D tensor instead")
    return Padded(x, batch_first)
