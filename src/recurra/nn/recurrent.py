"""`RNN`, `LSTM` and `GRU` of `torch.nn`, run by this library: one changed import, the same parameters and results."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from recurra import check
from recurra.errors import InputError
from recurra.models.stacked import ends, reversal, take
from recurra.nn.held import Held
from recurra.nn.layout import Packed, Padded, layout_of
from recurra.recurrence import Recurrence
from recurra.recurrences import gru, lstm, projected_lstm, rnn


class _Run(nn.RNNBase):
    """The call of the three modules. All but the call, and the names of the states, is PyTorch's own.

    Beside what PyTorch takes, a call takes `resets`, True where a sequence starts anew within a row: booleans that lie
    as the input does, without its last axis.
    """

    states: ClassVar[tuple[str, ...]] = ("h",)

    def forward(self, input: Any, hx: Any = None, *, resets: Tensor | None = None) -> tuple[Any, Any]:
        """The outputs of the last layer, and the last states of all: as `torch.nn`, whose errors it raises.

        Raises InputError if the resets do not fit the input.
        """
        self._update_flat_weights()
        layout = layout_of(input, self.batch_first, type(self).__name__)
        given = self._given(layout, hx)
        x, starts = layout.rows(layout.x), None if resets is None else layout.resets(resets)
        if (lower := self._lowered(x)) is None:
            return self._layers(layout, x, given, starts, lambda weight: weight)
        given = None if given is None else tuple(value.to(lower) for value in given)
        with torch.autocast(x.device.type, enabled=False):
            return self._layers(layout, x.to(lower), given, starts, lambda weight: weight.to(lower))

    def _layers(
        self,
        layout: Padded | Packed,
        x: Tensor,
        given: tuple[Tensor, ...] | None,
        resets: Tensor | None,
        cast: Callable[[Tensor], Tensor],
    ) -> tuple[Any, Any]:
        """All layers in all directions on rows x [B, T, D], with weights as `cast` makes them."""
        ways, last = 2 if self.bidirectional else 1, []
        for depth in range(self.num_layers):
            outputs = []
            for at in range(depth * ways, (depth + 1) * ways):
                state = None if given is None else [value[at] for value in given]
                y, state = self._one(at, x, state, resets, layout.lengths, cast)
                outputs.append(y)
                last.append(state)
            x = outputs[0] if ways == 1 else torch.cat(outputs, -1)
            if self.training and self.dropout and depth + 1 < self.num_layers:
                x = x * layout.noise(x, self.dropout)
        after = tuple(layout.returned(torch.stack(values)) for values in zip(*last, strict=True))
        return layout.result(x), after if len(after) > 1 else after[0]

    def _one(
        self,
        at: int,
        x: Tensor,
        state: list[Tensor] | None,
        resets: Tensor | None,
        lengths: Tensor | None,
        cast: Callable[[Tensor], Tensor],
    ) -> tuple[Tensor, list[Tensor]]:
        """One layer in one direction, by its place in a list of all."""
        weights = {name.rpartition("_l")[0]: cast(getattr(self, name)) for name in self._all_weights[at]}
        held = self._recurrences[at]
        if at % 2 == 0 or not self.bidirectional:
            return held(weights, x, state, resets, lengths)
        order = reversal(x, lengths)
        y, state = held(weights, take(x, order), state, ends(resets, order), lengths)
        return take(y, order), state

    def _lowered(self, x: Tensor) -> torch.dtype | None:
        """The type that PyTorch computes this module in under autocast, if that is on and x is no wider."""
        kind = x.device.type
        if x.dtype is torch.float64 or not torch.is_autocast_enabled(kind) or (kind == "cpu" and self.mode == "GRU"):
            return None
        return torch.get_autocast_dtype(kind)

    @property
    def _recurrences(self) -> list[Held]:
        """What runs each layer and direction; made when they are first called."""
        found = self.__dict__.get("_held")
        if found is None:
            widths = [getattr(self, names[0]).shape[1] for names in self._all_weights]
            found = self.__dict__["_held"] = [Held(partial(self._make, width), self.states) for width in widths]
        return found

    def _make(self, width: int) -> Recurrence:
        """The recurrence of one layer."""
        raise NotImplementedError

    def _given(self, layout: Padded | Packed, hx: Any) -> tuple[Tensor, ...] | None:
        """The states given, batched: all that PyTorch looks at is looked at."""
        if hx is None:
            self.check_input(layout.x, layout.batch_sizes)
            return None
        given = hx if len(self.states) > 1 else (hx,)
        if not isinstance(given, tuple | list) or len(given) != len(self.states):
            raise InputError(f"hx is {check.describe(hx)}; expected a tuple of {len(self.states)} tensors, h and c")
        for value in given:
            if not isinstance(value, Tensor):
                raise InputError(f"hx holds {check.describe(value)}; expected tensors")
        batched = tuple(layout.given(value) for value in given)
        hidden: Any = batched if len(batched) > 1 else batched[0]
        self.check_forward_args(layout.x, hidden, layout.batch_sizes)
        return batched

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        state.pop("_held", None)
        return state


class RNN(_Run, nn.RNN):
    """`torch.nn.RNN`: arguments, parameters, results and errors."""

    def _make(self, width: int) -> Recurrence:
        return rnn.RNN(width, self.hidden_size, self.nonlinearity)


class GRU(_Run, nn.GRU):
    """`torch.nn.GRU`: arguments, parameters, results and errors."""

    def _make(self, width: int) -> Recurrence:
        return gru.GRU(width, self.hidden_size)


class LSTM(_Run, nn.LSTM):
    """`torch.nn.LSTM`, with `proj_size` too: arguments, parameters, results and errors."""

    states = ("h", "c")

    def _make(self, width: int) -> Recurrence:
        if self.proj_size:
            return projected_lstm.ProjectedLSTM(width, self.hidden_size, self.proj_size)
        return lstm.LSTM(width, self.hidden_size)
