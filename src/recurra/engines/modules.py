"""Modules as functions of their tensors: a copy that reads others, and whether a module is still what it was."""

from __future__ import annotations

import copy
from collections.abc import Hashable, Mapping
from dataclasses import is_dataclass
from operator import attrgetter, itemgetter
from typing import Any

from torch import Tensor, nn

INTERNAL = frozenset(vars(nn.Module())) | {"last_solve"}
"""Attributes that are PyTorch's own, and what an engine reports."""


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
    """All that a module's function depends on besides its input, as it is now."""

    def __init__(self, module: nn.Module):
        # What the module holds, but not itself: whoever keeps a snapshot does not keep its module.
        modules = list(module.modules())
        self._vars = list(map(vars, modules))
        homes: list[dict] = [home for m in modules for home in (m._parameters, m._buffers, m._modules)]
        held = [(home, name, value) for home in homes for name, value in home.items()]
        self._held_homes, self._held_names = [home for home, _, _ in held], [name for _, name, _ in held]
        # Kept, so that nothing new gets the identity of what was replaced.
        self._held = [value for _, _, value in held]
        self._tensors = [value for _, _, value in held if isinstance(value, Tensor)]
        self._dicts = [*homes, *self._vars]
        own = [(home, name) for home in self._vars for name in home if name not in INTERNAL]
        self._setting_homes, self._setting_names = [home for home, _ in own], [name for _, name in own]
        settings = [home[name] for home, name in own]
        self.plain = all(map(_plain, settings)) and all(_known(type(m)) for m in modules)
        """Whether these are modules of this library and of PyTorch, with nothing in them that is not plain data."""
        self._hooks = [hooks for m in modules for hooks in (m._forward_hooks, m._forward_pre_hooks)]
        self.hooked = any(self._hooks) or any(_global_hooks())
        self.fingerprint: Hashable = tuple(
            (name, type(m), m.training, tuple((k, repr(v)) for k, v in vars(m).items() if k not in INTERNAL))
            for name, m in module.named_modules()
        )
        """The same for modules that are the same function of their tensors, if they are plain."""
        self._was = copy.deepcopy(self._now()) if self.plain else self._now()

    def holds(self) -> bool:
        """Whether the module still is what it was."""
        return self._now() == self._was and (any(self._hooks) or any(_global_hooks())) == self.hooked

    def _now(self) -> tuple[Hashable, ...]:
        """What there is to compare; it is looked at before every token, so all loops here are C's."""
        held = map(dict.get, self._held_homes, self._held_names)
        settings = map(dict.get, self._setting_homes, self._setting_names)
        return (
            tuple(map(id, held)),
            tuple(map(len, self._dicts)),
            tuple(map(Tensor.data_ptr, self._tensors)),
            tuple(map(Tensor.stride, self._tensors)),
            tuple(map(_shape, self._tensors)),
            tuple(map(_dtype, self._tensors)),
            tuple(map(_training, self._vars)),
            tuple(settings if self.plain else map(id, settings)),
        )


_shape, _dtype, _training = attrgetter("shape"), attrgetter("dtype"), itemgetter("training")


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
