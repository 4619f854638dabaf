"""Modules as functions of their tensors: a copy that reads others, and whether a module is still what it was."""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Mapping
from dataclasses import is_dataclass
from operator import attrgetter, is_
from typing import Any

from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from recurra.engines.reading import FOUND, INTERNAL


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
        clone = self._copies[id(value)] = object.__new__(type(value))
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


class Snapshot:
    """All that a module's function depends on besides its input, as it is now.

    It is compared before every token, after weights have gone through the caches: all loops are C's, and touch as few
    objects as they can.
    """

    def __init__(self, module: nn.Module):
        # What the module holds, but not itself: whoever keeps a snapshot does not keep its module.
        modules = list(module.modules())
        homes: list[dict] = [home for m in modules for home in (m._parameters, m._buffers, m._modules)]
        held = [(home, name, value) for home in homes for name, value in home.items()]
        self._held_homes, self._held_names = [home for home, _, _ in held], [name for _, name, _ in held]
        # Kept, so that nothing new gets the identity of what was replaced.
        self._held = [value for _, _, value in held]
        self._tensors = tensors = [value for value in self._held if isinstance(value, Tensor)]
        self._readings = [(read, list(map(read, tensors))) for read in _READINGS]
        hooks = [hooks for m in modules for hooks in (m._forward_hooks, m._forward_pre_hooks)] + list(_global_hooks())
        self.hooked = any(hooks)
        self._dicts: list[Mapping] = [*homes, *map(vars, modules), *hooks]
        self._lengths = list(map(len, self._dicts))
        own = [(vars(m), name) for m in modules for name in ("training", *_settings(m))]
        self._setting_homes, self._setting_names = [home for home, _ in own], [name for _, name in own]
        settings = [home[name] for home, name in own]
        # Of what cannot change a copy would only be another object to look at.
        self._settings = [copy.deepcopy(v) if _plain(v) and not _frozen(v) else v for v in settings]

    def holds(self) -> bool:
        """Whether the module still is what it was."""
        try:
            return (
                list(map(len, self._dicts)) == self._lengths
                and all(map(is_, map(dict.get, self._held_homes, self._held_names), self._held))
                and all(list(map(read, self._tensors)) == was for read, was in self._readings)
                and list(map(dict.get, self._setting_homes, self._setting_names)) == self._settings
            )
        except Exception:
            # Something is now of a kind that cannot be compared.
            return False


_READINGS: tuple[Callable, ...] = (Tensor.data_ptr, Tensor.stride, Tensor.size, attrgetter("dtype"))
"""What may change in a tensor that stays the same object."""


def _settings(module: nn.Module) -> list[str]:
    """Names of the attributes that are the module's own."""
    return [name for name in vars(module) if name not in INTERNAL]


def is_plain(module: nn.Module) -> bool:
    """Whether this is made of modules of this library and of PyTorch, with nothing in them that is not plain data."""
    return all(_known(type(m)) and all(_plain(vars(m)[name]) for name in _settings(m)) for m in module.modules())


def is_hooked(module: nn.Module) -> bool:
    """Whether calling the module or one of its parts runs somebody's hook."""
    return any(m._forward_hooks or m._forward_pre_hooks for m in module.modules()) or any(_global_hooks())


def fingerprint(module: nn.Module) -> Hashable:
    """The same for modules that are the same function of their tensors, if they are plain."""
    return tuple(
        (name, type(m), m.training, tuple((k, repr(vars(m)[k])) for k in _settings(m)))
        for name, m in module.named_modules()
    )


def _global_hooks() -> tuple[Mapping, Mapping]:
    return nn.modules.module._global_forward_hooks, nn.modules.module._global_forward_pre_hooks


def _known(kind: type) -> bool:
    return kind.__module__.split(".")[0] == "recurra" or kind.__module__.startswith("torch.nn.modules.")


def _plain(value: object) -> bool:
    """Whether a value is data that its text tells apart from any other."""
    if isinstance(value, dict):
        return all(map(_plain, value)) and all(map(_plain, value.values()))
    if isinstance(value, tuple | list):
        return all(map(_plain, value))
    if is_dataclass(value) and type(value).__module__.split(".")[0] == "recurra":
        return all(map(_plain, vars(value).values()))
    return value is None or isinstance(value, bool | int | float | str)


def _frozen(value: object) -> bool:
    """Whether a plain value is a dataclass that cannot change."""
    parameters = getattr(type(value), "__dataclass_params__", None)
    if parameters is None or not parameters.frozen:
        return False
    return not any(isinstance(held, dict | list | tuple) or is_dataclass(held) for held in vars(value).values())
