"""What can be told of an operation of PyTorch: what it writes to, what it is made of, whether it draws."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def writes_to(func: Any, args: tuple, kwargs: dict, tensor: Tensor) -> bool:
    """Whether an operation writes to one of its arguments."""
    for i, argument in enumerate(func._schema.arguments):
        given = args[i] if i < len(args) else kwargs.get(argument.name)
        if argument.alias_info is not None and argument.alias_info.is_write and given is tensor:
            return True
    return False


def decompose(func: Any, args: tuple, kwargs: dict) -> Any:
    """The operation in terms of simpler ones, by PyTorch's own tables."""
    result = func.decompose(*args, **kwargs)
    if result is not NotImplemented:
        return result
    from torch._decomp import decomposition_table

    rule = decomposition_table.get(func)
    return NotImplemented if rule is None else rule(*args, **kwargs)


def draws(func: Any, args: tuple, kwargs: dict) -> bool:
    """Whether an operation draws random numbers; what may drop something does while it trains, and if it drops."""
    given = dict(zip((a.name for a in func._schema.arguments), args, strict=False)) | kwargs
    names = {argument.name for argument in func._schema.arguments}
    if "dropout_p" in names:
        return given.get("dropout_p", 0.0) != 0
    if not given.get("train", given.get("training", True)):
        return False
    return torch.Tag.nondeterministic_seeded in func.tags
