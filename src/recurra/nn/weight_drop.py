"""Weights of which some are left out while training."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.utils import parametrize

from recurra import options
from recurra.errors import InputError


class Dropped(nn.Module):
    """A weight with each number zero by chance while training, the others larger for it."""

    def __init__(self, chance: float):
        super().__init__()
        self.chance = chance

    def forward(self, weight: Tensor) -> Tensor:
        """The weight of one call."""
        return nn.functional.dropout(weight, self.chance, self.training)


def weight_drop(module: nn.Module, chance: float, names: Sequence[str] = ("weight_hh_l0",)) -> nn.Module:
    """The same module, whose weights of such names, in all of its parts, lose numbers by `chance` while training: the
    same ones at all time steps of a call, since a layer reads its weights once. Nothing is lost in evaluation.

    Raises InputError if `chance` is not below 1, or there is no such weight.

    Source: DropConnect on recurrent weights, Regularizing and Optimizing LSTM Language Models, Merity, Keskar, Socher,
    2018, arXiv:1708.02182.
    """
    options.number("chance", chance, 0, 1)
    found = [(part, name) for part in module.modules() for name in names if name in part._parameters]
    if not found:
        own = sorted({name.rpartition(".")[2] for name, _ in module.named_parameters()})
        raise InputError(f"names is {options.shown(names)}; expected names among {options.shown(own)}")
    for part, name in found:
        parametrize.register_parametrization(part, name, Dropped(chance))
    return module
