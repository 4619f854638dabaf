"""Indexing by one number that is a tensor, as operations: by itself PyTorch takes the number out to do it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class Positions(TorchFunctionMode):
    """Sees indexing and one_hot before PyTorch asks for values.

    Args:
        refuse: makes the error for what cannot be done, from what is said of the step.
    """

    def __init__(self, refuse: Callable[[str], Exception]):
        super().__init__()
        self.refuse = refuse

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func is Tensor.__getitem__ and _numbers(args[1]):
            return _picked(args[0], args[1])
        if func is Tensor.__setitem__ and _numbers(args[1]):
            return self._put(*args)
        if func is torch.nn.functional.one_hot:
            return self._one_hot(*args, **kwargs)
        return func(*args, **kwargs)

    def _put(self, x: Tensor, index: Any, value: Any) -> None:
        """What has a value at a position is written where a number equals it; NaN where nothing does."""
        index = _as_tuple(index)
        places = [i for i, part in enumerate(index) if _is_number(part)]
        others = [part for part in index if isinstance(part, Tensor | list)]
        if len(places) > 1 or len(others) > 1:
            raise self.refuse("step writes to several positions that it finds: use torch.where")
        place = places[0]
        whole = x[(*index[:place], slice(None), *index[place + 1 :])]
        axis = sum(not isinstance(part, int) for part in index[:place] if part is not Ellipsis)
        axis += whole.dim() - len(index) + 1 if Ellipsis in index[:place] else 0
        size = whole.shape[axis]
        number = _from_start(index[place], size)
        shape = [size if i == axis else 1 for i in range(whole.dim())]
        value = torch.as_tensor(value, dtype=x.dtype, device=x.device)
        value = value.expand(whole.select(axis, 0).shape).unsqueeze(axis)
        hit = (torch.arange(size, device=x.device) == number).view(shape)
        value = torch.where((number >= 0) & (number < size), torch.where(hit, value, whole), math.nan)
        whole.copy_(value)

    def _one_hot(self, index: Tensor, num_classes: int = -1) -> Tensor:
        if num_classes < 1:
            raise self.refuse("step uses one_hot without num_classes, which depends on values: say how many there are")
        return (index.unsqueeze(-1) == torch.arange(num_classes, device=index.device)).to(torch.int64)


def _as_tuple(index: Any) -> tuple:
    return index if isinstance(index, tuple) else (index,)


def _is_number(index: Any) -> bool:
    whole = isinstance(index, Tensor) and not (index.is_floating_point() or index.is_complex())
    return whole and index.dim() == 0 and index.dtype is not torch.bool


def _numbers(index: Any) -> bool:
    """Whether some of an index are single whole numbers that are tensors."""
    return any(map(_is_number, _as_tuple(index)))


def _axes(x: Tensor, index: tuple) -> list[int]:
    """The axis of x that each part of an index is for, or that comes next."""
    taken = sum(_width(part) for part in index)
    axes, at = [], 0
    for part in index:
        axes.append(at)
        at += x.dim() - taken if part is Ellipsis else _width(part)
    return axes


def _width(part: Any) -> int:
    """How many axes a part of an index is for."""
    if part is None or part is Ellipsis or isinstance(part, bool):
        return 0
    return part.dim() if isinstance(part, Tensor) and part.dtype is torch.bool else 1


def _from_start(index: Tensor, size: int) -> Tensor:
    return torch.where(index < 0, index + size, index)


def _picked(x: Tensor, index: Any) -> Tensor:
    index = _as_tuple(index)
    rest = list(index)
    for place, axis in reversed(list(enumerate(_axes(x, index)))):
        if _is_number(index[place]):
            at = _from_start(index[place], x.shape[axis]).reshape(1)
            x = x.index_select(axis, at).squeeze(axis)
            del rest[place]
    return x[tuple(rest)] if rest else x
