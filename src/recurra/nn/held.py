"""A recurrence that computes with the parameters of another module."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from recurra.problem import Lane, compute_dtype
from recurra.recurrence import Recurrence


class Held:
    """Runs a recurrence of ours with parameters that are named and laid out as `torch.nn` has them.

    It keeps one recurrence, so that what engines find out about it is found out once, and puts the tensors of each call
    in it: parameters may be moved, replaced or parametrised in between.
    """

    def __init__(self, make: Callable[[], Recurrence], states: Sequence[str]):
        with torch.device("meta"):
            self._layer = make()
        self._states = states

    def __call__(
        self,
        weights: Mapping[str, Tensor],
        x: Tensor,
        state: Sequence[Tensor] | None = None,
        resets: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> tuple[Tensor, list[Tensor]]:
        """x [B, T, D] and the states before, [B, H] each, to y and the states after.

        Args:
            weights: "weight_ih", "weight_hh" and so on; biases that are not there are zero.
        """
        self._hold(weights)
        one_lane = self._layer.lane is Lane.LAYER
        given = None
        if state is not None:
            kept = [value.to(compute_dtype(x.dtype)) for value in state]
            given = dict(zip(self._states, kept if one_lane else [value[:, None] for value in kept], strict=True))
        y, after = self._layer(x, given, resets=resets, lengths=lengths)
        last = [after[name].to(x.dtype) for name in self._states]
        return y, last if one_lane else [value[:, 0] for value in last]

    def _hold(self, weights: Mapping[str, Tensor]) -> None:
        held: dict[str, Any] = self._layer._parameters
        like = weights["weight_ih"]
        for name, own in held.items():
            tensor = weights.get(name.removesuffix("_l0"))
            if tensor is None and (own.dtype, own.device) != (like.dtype, like.device):
                tensor = torch.zeros(own.shape, dtype=like.dtype, device=like.device)
            if tensor is not None and tensor is not own:
                held[name] = tensor
