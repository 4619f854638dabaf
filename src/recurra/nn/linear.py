"""`torch.nn.Linear` by the fastest product of this machine."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recurra.engines.products import linear as linear


class _Known(type):
    """Makes tables that go by the exact type of a module, as those of `torch.ao.quantization` do, find a Linear under
    `torch.nn.Linear`."""

    def __eq__(cls, other: object) -> bool:
        return other is nn.Linear or other is cls

    def __hash__(cls) -> int:
        return hash(nn.Linear)


class Linear(nn.Linear, metaclass=_Known):
    """A `torch.nn.Linear` whose product, forward and for both gradients, takes the fastest way this machine has.

    Arguments, parameters, their first values, state_dict and errors are those of `torch.nn.Linear`, and results are
    the same but for rounding. Large products in float32 are computed by oneDNN where that is faster, which
    `recurra calibrate` measures; all others by PyTorch, and so is what is traced, cast or transformed. Which way is
    taken follows from the size alone, so that two runs on one machine give the same bits.
    """

    def forward(self, input: Tensor) -> Tensor:
        """input [..., in_features] to [..., out_features]."""
        if torch.jit.is_scripting():
            return nn.functional.linear(input, self.weight, self.bias)
        return linear(input, self.weight, self.bias)
