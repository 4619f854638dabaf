"""Modules as functions of their tensors: a copy that reads others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from recurra.engines.reading import FOUND, INTERNAL

IN_PYTHON = 1 << 9
"""The flag of types that are written in Python."""


def with_tensors(module: nn.Module, tensors: Mapping[str, Tensor]) -> Any:
    """A shallow copy of a module that holds these tensors, by the places that `Reading` names; the module is not
    touched. What lies outside of the module, in globals and closures, is left as it is."""
    inner = {name[:at] for name in tensors for at, mark in enumerate(name) if mark in ".["}
    return _Copier(tensors, inner).value("", module)


class _Copier:
    """Copies what leads to the tensors; an object met twice is copied once."""

    def __init__(self, tensors: Mapping[str, Tensor], inner: set[str]):
        self._tensors, self._inner = tensors, inner
        self._copies: dict[int, Any] = {}

    def value(self, path: str, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self._tensors.get(path, value)
        if id(value) in self._copies:
            return self._copies[id(value)]
        if isinstance(value, nn.Module):
            return self._module(path, value)
        if path not in self._inner or callable(value) or isinstance(value, type):
            return value
        if isinstance(value, dict):
            return type(value)((name, self.value(f"{path}[{name!r}]", held)) for name, held in value.items())
        if isinstance(value, list | tuple):
            items = [self.value(f"{path}[{i!r}]", held) for i, held in enumerate(value)]
            return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
        if hasattr(value, "__dict__"):
            return self._object(path, value)
        return value

    def _module(self, path: str, module: nn.Module) -> nn.Module:
        kind = type(module)
        computed: dict[str, Any] = {}
        places = {name: f"{path}.{name}" if path else name for name in getattr(module, "parametrizations", ())}
        if is_parametrized(module) and all(place in self._tensors for place in places.values()):
            # PyTorch makes a class for the module, whose properties compute the weights.
            kind = kind.__mro__[1]
            computed = {name: self._tensors[place] for name, place in places.items()}
        # Not by `copy`, which parametrised modules and some of the user's refuse.
        clone = self._copies[id(module)] = object.__new__(kind)
        own = {name: value for name, value in vars(module).items() if name not in FOUND}
        clone.__dict__.update(own)
        for home in ("_parameters", "_buffers", "_modules"):
            clone.__dict__[home] = self._held(path, getattr(module, home))
        clone.__dict__.update(self._held(path, {n: v for n, v in own.items() if n not in INTERNAL}))
        if computed:
            del clone._modules["parametrizations"]
            clone.__dict__.update(computed)
        return clone

    def _object(self, path: str, value: Any) -> Any:
        # Not by a `__new__` in Python, which may want arguments.
        in_c: Any = next(base for base in type(value).__mro__ if not base.__flags__ & IN_PYTHON)
        clone = self._copies[id(value)] = in_c.__new__(type(value))
        clone.__dict__.update(self._held(path, vars(value)))
        return clone

    def _held(self, path: str, home: Mapping[str, Any]) -> dict[str, Any]:
        return {name: self.value(f"{path}.{name}" if path else name, held) for name, held in home.items()}


def settled(module: nn.Module) -> Any:
    """A copy of a module in which parametrised weights are computed, once; with gradients to what they come from."""
    computed = {
        f"{path}.{name}" if path else name: getattr(part, name)
        for path, part in module.named_modules()
        if is_parametrized(part)
        for name in part.parametrizations
    }
    return with_tensors(module, computed)
