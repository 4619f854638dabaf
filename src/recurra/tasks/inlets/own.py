"""A part of one's own in front of a backbone, in place of the linear map of numbers."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from recurra.contract import Layer
from recurra.errors import InputError, one_line
from recurra.nn.linear import Linear
from recurra.options import shown
from recurra.tasks.chain import Chain


class Own(Chain):
    """Any part, then a linear map: numbers [B, T, C] to [B, T, width], called as a `Chain` is.

    A part with an `initial_state` is called as a layer; a module or a function without one looks at each step by
    itself. A module is copied, and learns with the rest as far as its parameters ask for gradients; one that has none
    such stays as in evaluation. What a function gives is taken as it is: no gradient flows through it.

    Args:
        part: reads [B, T, *shape], gives [B, T, ...].
        shape: of the numbers of one step, C in all.
        width: of what comes out.

    Raises:
        InputError: the part is none, does not take such numbers, or what it says of a step depends on others: of a
            part with a state on later ones, of any other on any.
    """

    def __init__(self, part: Any, shape: tuple[int, ...], width: int):
        expect_part(part)
        own = deepcopy(part) if isinstance(part, nn.Module) else Called(part)
        size = _looked_at(own, shape)
        parts = {"shaped": nn.Unflatten(-1, shape), "part": own, "flat": nn.Flatten(2), "join": Linear(size, width)}
        super().__init__(OrderedDict(parts))
        self.frozen = not any(parameter.requires_grad for parameter in own.parameters())

    def train(self, mode: bool = True) -> Own:
        """As of any module; what does not learn stays as in evaluation."""
        super().train(mode)
        if self.frozen:
            self.get_submodule("part").eval()
        return self


class Called(nn.Module):
    """A function of numbers, [B, T, ...] to [B, T, ...], as a module that does not learn."""

    def __init__(self, function: Callable[[Tensor], Any]):
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.as_tensor(self.function(x.detach())).to(x.dtype)


def expect_part(part: object) -> None:
    """Raises InputError if something is neither a module nor a function."""
    if not callable(part):
        raise InputError(f"inlet is {shown(part)}; expected a module, or a function of numbers [B, T, ...]")


def name_of(part: object) -> str:
    """Of a part, for people."""
    return type(part).__name__ if isinstance(part, nn.Module) else getattr(part, "__name__", type(part).__name__)


def _told(shape: tuple[int, ...]) -> str:
    return ", ".join(map(str, shape))


@torch.no_grad()
def _looked_at(part: nn.Module, shape: tuple[int, ...]) -> int:
    """How many numbers a part gives at each step."""
    name = name_of(part.function if isinstance(part, Called) else part)
    if endless := [type(m).__name__ for m in part.modules() if isinstance(m, Layer) and m.endless]:
        raise InputError(f"inlet is a {name} with {endless[0]}, whose state grows; expected that in the pattern")
    training = part.training
    x = torch.randn(2, 3, *shape, generator=torch.Generator().manual_seed(0))
    try:
        whole, alone, first = (_said(part.eval(), each) for each in (x, x[:, 1:2], x[:, :1]))
    except Exception as error:
        raise InputError(f"inlet, a {name}, cannot read [2, 3, {_told(shape)}] numbers: {one_line(error)}") from error
    finally:
        part.train(training)
    if not isinstance(whole, Tensor) or whole.shape[:2] != x.shape[:2] or not whole.is_floating_point():
        came = list(whole.shape) if isinstance(whole, Tensor) else type(whole).__name__
        raise InputError(f"inlet, a {name}, makes {came} of [2, 3, {_told(shape)}] numbers; expected [2, 3, ...]")
    carries = hasattr(part, "initial_state")
    expected, found = (whole[:, :1], first) if carries else (whole[:, 1:2], alone)
    if not torch.allclose(expected, found, 1e-3, 1e-5):
        what = "later ones" if carries else "others; expected a layer with a state, or a function of each"
        raise InputError(f"what inlet, a {name}, says of a step depends on {what}")
    return whole[0, 0].numel()


def _said(part: nn.Module, x: Tensor) -> Any:
    return part(x)[0] if hasattr(part, "initial_state") else part(x)
