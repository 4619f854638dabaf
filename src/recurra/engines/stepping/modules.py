"""Modules as functions of their tensors: a copy that reads others, and whether a module is still what it was."""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Mapping
from dataclasses import is_dataclass
from operator import attrgetter, is_
from typing import Any

from torch import Tensor, nn

INTERNAL = frozenset(vars(nn.Module())) | {"last_solve", "_step_plan"}
"""Attributes that are PyTorch's own, what an engine reports, and what one has found out (see `single`)."""


def with_tensors(module: nn.Module, tensors: Mapping[str, Tensor], prefix: str = "") -> Any:
    """A shallow copy of a module that holds these tensors, by qualified name; the module is not touched."""
    clone = copy.copy(module)
    clone.__dict__ = dict(module.__dict__)
    for kind in ("_parameters", "_buffers"):
        own = getattr(module, kind)
        clone.__dict__[kind] = {name: tensors.get(prefix + name, value) for name, value in own.items()}
    clone.__dict__["_modules"] = {
        name: child if child is None else with_tensors(child, tensors, f"{prefix}{name}.")
        for name, child in module._modules.items()
    }
    return clone


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
