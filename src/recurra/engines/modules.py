"""Modules as functions of their tensors: a copy that reads others, and whether a module is still what it was."""

from __future__ import annotations

import copy
from collections.abc import Hashable, Mapping
from dataclasses import is_dataclass
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
        modules = list(module.modules())
        homes: list[Mapping[str, Any]] = [h for m in modules for h in (m._parameters, m._buffers, m._modules)]
        self._held = [(home, name, value) for home in homes for name, value in home.items()]
        self._sizes = [(home, len(home)) for home in (*homes, *map(vars, modules))]
        tensors = [value for _, _, value in self._held if isinstance(value, Tensor)]
        self._places = [(t, t.data_ptr(), t.stride(), t.dtype) for t in tensors]
        own = [(vars(m), name, value) for m in modules for name, value in vars(m).items() if name not in INTERNAL]
        self._settings = [(home, name, copy.deepcopy(value) if _plain(value) else value) for home, name, value in own]
        self._training = [(m, m.training) for m in modules]
        self._hooks = [hooks for m in modules for hooks in (m._forward_hooks, m._forward_pre_hooks)]
        self.hooked = any(self._hooks) or any(_global_hooks())
        self.plain = all(_plain(value) for _, _, value in own) and all(_known(type(m)) for m in modules)
        """Whether these are modules of this library and of PyTorch, with nothing in them that is not plain data."""
        self.fingerprint: Hashable = tuple(
            (name, type(m), m.training, tuple((k, repr(v)) for k, v in vars(m).items() if k not in INTERNAL))
            for name, m in module.named_modules()
        )
        """The same for modules that are the same function of their tensors, if they are plain."""

    def holds(self) -> bool:
        """Whether the module still is what it was."""
        return (
            all(home.get(name) is value for home, name, value in self._held)
            and all(len(home) == size for home, size in self._sizes)
            and all(t.data_ptr() == at and t.stride() == stride and t.dtype is dtype
                    for t, at, stride, dtype in self._places)
            and all(home.get(name) == value for home, name, value in self._settings)
            and all(m.training is flag for m, flag in self._training)
            and (any(self._hooks) or any(_global_hooks())) == self.hooked
        )  # fmt: skip


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
