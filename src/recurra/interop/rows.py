"""Rows of tokens as transformers give them, padded and packed, as our models read them."""

from __future__ import annotations

import torch
from torch import Tensor

from recurra.errors import InputError


class Rows:
    """The valid tokens of every row moved to its start, with what a model is to be told about them.

    Args:
        tokens: [B, T].
        mask: [B, T] or longer by what came before, 0 where a token is padding; None: nowhere.
        positions: [B, T] or [1, T]; a sequence begins where one is not larger than that before it. They count on
            elsewhere, over padding or not. None: nothing was packed.

    Raises:
        InputError: positions leave out some that are no padding.
    """

    tokens: Tensor
    """[B, T], the valid ones first."""
    lengths: Tensor | None = None
    """[B], the number of valid tokens, if there is padding."""
    resets: Tensor | None = None
    """[B, T], where sequences begin inside of rows, if any do."""

    def __init__(self, tokens: Tensor, mask: Tensor | None, positions: Tensor | None):
        self.tokens = tokens
        self._columns = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
        mask = None if mask is None else mask[:, mask.shape[1] - tokens.shape[1] :].bool()
        if mask is not None and not mask.all():
            self._columns = torch.argsort(mask.int(), dim=1, descending=True, stable=True)
            self.tokens, self.lengths = tokens.gather(1, self._columns), mask.sum(1)
        if positions is not None:
            begins = self._beginnings(positions.expand_as(tokens).gather(1, self._columns))
            self.resets = begins if begins.any() else None

    def _beginnings(self, positions: Tensor) -> Tensor:
        valid = torch.ones_like(positions, dtype=torch.bool)
        if self.lengths is not None:
            valid = torch.arange(valid.shape[1], device=valid.device) < self.lengths[:, None]
        step, skipped = positions.diff(dim=1), self._columns.diff(dim=1)
        strange = (step > 1) & (step != skipped) & valid[:, 1:]
        if strange.any():
            row, at = (int(i) for i in strange.nonzero()[0])
            raise InputError(
                f"position_ids go from {int(positions[row, at])} to {int(positions[row, at + 1])} in row {row}; "
                "expected them to count on, or to begin again where a sequence does"
            )
        begins = torch.zeros_like(valid)
        begins[:, 1:] = (step <= 0) & valid[:, 1:]
        return begins

    def back(self, flow: Tensor) -> Tensor:
        """What came out of a model, [B, T, D], at the places where the tokens were; zero where there was none."""
        if self.lengths is None:
            return flow
        here = torch.argsort(self._columns, dim=1)[..., None]
        return flow.gather(1, here.expand_as(flow)).masked_fill(here >= self.lengths[:, None, None], 0)
