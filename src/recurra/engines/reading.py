"""What a module's `step`, or the whole of a module, reads besides its arguments: the tensors, by where they are found,
and all else as one key.

Found are parameters and buffers under every name they have; plain attributes; what lies in lists, tuples, dicts and
objects; submodules with their settings and hooks; and what functions of the user name: globals, closures, defaults.
Two modules with equal keys do the same to the tensors of the same places.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Hashable, Iterable, Mapping
from enum import Enum
from operator import attrgetter, getitem, is_
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from recurra.engines.foreign import is_foreign, only_computes
from recurra.engines.naming import BEHAVIOUR, doing, global_names, imported, names_in, overridden, reached

FOUND = frozenset({"last_solve", "_step_plan", "_reading"})
"""Attributes that engines leave: a report, and what they have found out."""
INTERNAL = frozenset(vars(nn.Module())) | FOUND
"""These, and PyTorch's own."""
ROOTS = ("step", "combine", "as_delta_rule")
"""Methods that engines call."""
CALLED = ("start", "inputs", "outputs", "forward", *ROOTS)
"""Methods that a call of a module may run."""
CONTRACT = frozenset({"lane", "width", "windows", "growing"})
"""Attributes of a layer that a call of it reads."""
ATOMS = (int, str, bytes, bool, type(None), complex, torch.dtype, torch.device, torch.Size, range, slice, Enum,
         type(Ellipsis))  # fmt: skip


class Same:
    """An object that is equal to itself only, and stays alive with this."""

    __slots__ = ("value",)

    def __init__(self, value: object):
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


class Key:
    """A tuple that is hashed once."""

    __slots__ = ("_hash", "parts")

    def __init__(self, parts: tuple):
        self.parts, self._hash = parts, hash(parts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Key) and self._hash == other._hash and self.parts == other.parts

    def __hash__(self) -> int:
        return self._hash


class Reading:
    """What a module's step reads, as it is now; or all that a call of the module does.

    It is compared at every call, and before every token, after weights have gone through the caches: all loops are C's,
    over as few objects as can be.
    """

    def __init__(self, module: nn.Module, whole: bool = False):
        walk = _Walk()
        if whole:
            walk.called(module)
        else:
            walk.owner(module, reached(module, ROOTS))
        self.tensors: dict[str, Tensor] = walk.tensors
        self.parametrised, self.hooked = walk.parametrised, walk.hooked
        self.does_more = walk.does_more
        """What may do more than compute, of what is read: it has to be called each time."""
        kinds = tuple((name, t.shape, t.dtype, t.device, type(t)) for name, t in self.tensors.items())
        self.key = Key((type(module), tuple(walk.tokens), kinds))
        self.found: dict[Hashable, Any] = {}
        """What engines have found out about the step, which lasts as long as this does."""
        self.devices = {t.device for t in self.tensors.values()}
        self._own = vars(module)
        self._homes, self._names, self._held = walk.homes, walk.names, walk.held
        tensors = list({id(t): t for t in self.tensors.values()}.values())
        self._equal = unchanged([(len, walk.sized), *((read, tensors) for read in _READINGS)])
        self._same = unchanged([(_CONTENTS, walk.cells), (_CODE, walk.functions)])
        self._copied = walk.copied

    @staticmethod
    def of(module: nn.Module) -> Reading:
        """Of a module's step; found out anew only if something has changed."""
        known = vars(module).get("_reading")
        if known is None or not known.holds_of(module):
            known = Reading(module)
            vars(module)["_reading"] = known
        return known

    def holds_of(self, module: nn.Module) -> bool:
        """Whether this is that of a module, and all still is what it was. A copy of a module has its attributes."""
        return self._own is vars(module) and self.holds()

    def holds(self) -> bool:
        """Whether all still is what it was."""
        try:
            return (
                all(map(is_, map(getitem, self._homes, self._names), self._held))
                and still(self._equal)
                and all(all(map(is_, map(read, things), was)) for read, things, was in self._same)
                and all(_copy(value) == was for value, was in self._copied)
            )
        except Exception:
            # Something was taken away, or is now of a kind that cannot be compared.
            return False

    def __reduce__(self) -> tuple:
        # Copies of a module find out for themselves.
        return _nothing, ()


_CONTENTS, _CODE = attrgetter("cell_contents"), attrgetter("__code__")
_READINGS: tuple[Callable, ...] = (Tensor.size, attrgetter("dtype"), attrgetter("device"))
"""What may change in a tensor that stays the same object, and with it the trace."""


Unchanged = list[tuple[Callable, list, list]]


def unchanged(readings: Iterable[tuple[Callable, list]]) -> Unchanged:
    """What is read of some things now, to be compared with `still`."""
    return [(read, things, list(map(read, things))) for read, things in readings if things]


def still(known: Unchanged) -> bool:
    """Whether things are what they were."""
    return all(list(map(read, things)) == was for read, things, was in known)


class Named:
    """The reading of a function that a key says all about."""

    def __init__(self, key: Hashable, tensors: Mapping[str, Tensor] | None = None):
        self.key, self.tensors = key, tensors or {}
        self.found: dict[Hashable, Any] = {}


def _nothing() -> None:
    return None


def _copy(value: Any) -> Any:
    """The contents of something that may change without becoming another object."""
    return value.tobytes() if hasattr(value, "tobytes") else frozenset(value)


class _Walk:
    """Goes through everything a step can reach; names of places are as in Python."""

    def __init__(self) -> None:
        self.tokens: list[Hashable] = []
        self.tensors: dict[str, Tensor] = {}
        self.homes: list[Any] = []
        self.names: list[Any] = []
        self.held: list[Any] = []
        self.sized: list[Any] = []
        self.cells: list[Any] = []
        self.functions: list[Any] = []
        self.copied: list[tuple[Any, Any]] = []
        self.parametrised = self.hooked = False
        self.does_more: str | None = None
        self._seen: dict[int, str] = {}
        self._first: dict[int, str] = {}

    def owner(self, module: nn.Module, names: frozenset[str] | None) -> None:
        """A module: of its own attributes only those named, unless all can be read."""
        self._seen[id(module)] = ""
        self._class("", type(module), names)
        self._module("", module, names)

    def called(self, module: nn.Module) -> None:
        """All that calling a module may read, the hooks of all modules among it."""
        kind = type(module)
        names = None if is_foreign(kind) else reached(module, (*CALLED, *overridden(kind)))
        self._computes("", kind)
        self.owner(module, None if names is None else names | CONTRACT)
        shared = nn.modules.module
        for hooks in (*_hooks(module), shared._global_forward_hooks, shared._global_forward_pre_hooks):
            self._hooks(hooks)

    def value(self, path: str, value: Any) -> None:
        if isinstance(value, Tensor):
            self.tensors[path] = value
            # One tensor in two places is another function of its tensors than two tensors are.
            self.tokens.append((path, self._first.setdefault(id(value), path)))
        elif isinstance(value, float):
            self.tokens.append((float, repr(value)))  # as text, 0.0 differs from -0.0, and NaN is itself
        elif isinstance(value, ATOMS) and type(value).__hash__ is not None:
            self.tokens.append((type(value), value if not isinstance(value, slice) else repr(value)))
        elif id(value) in self._seen:
            self.tokens.append(("again", self._seen[id(value)]))
        else:
            self._seen[id(value)] = path
            self._inside(path, value)

    def _inside(self, path: str, value: Any) -> None:
        kind: type = type(value)
        self.tokens.append(kind)
        if not isinstance(value, types.FunctionType | types.BuiltinFunctionType | types.ModuleType | type):
            self._computes(path, kind)
        if not is_foreign(kind):
            self.value(f"{path}.__class__", kind)
        if isinstance(value, nn.Module):
            self._module(path, value)
        elif isinstance(value, Mapping) and hasattr(value, "__getitem__"):
            self._items(path, value, list(value.items()))
        elif isinstance(value, list | tuple):
            self._items(path, value, list(enumerate(value)))
        elif isinstance(value, types.FunctionType):
            self._function(path, value)
        elif isinstance(value, types.MethodType):
            self.value(f"{path}.__func__", value.__func__)
            self.value(f"{path}.__self__", value.__self__)
        elif isinstance(value, functools.partial):
            self.value(f"{path}.func", value.func)
            self._items(f"{path}.args", value.args, list(enumerate(value.args)))
            self._items(f"{path}.keywords", value.keywords, list(value.keywords.items()))
        elif isinstance(value, set | frozenset) or hasattr(value, "tobytes"):
            self.copied.append((value, _copy(value)))
            self.tokens.append(self.copied[-1][1])
        elif isinstance(value, property | staticmethod | classmethod):
            self.value(path, value.fget if isinstance(value, property) else value.__func__)
        elif isinstance(value, type):
            self._computes(path, value)
            self.tokens.append(Same(value))
            self._class(path, value)
        elif isinstance(value, types.ModuleType | types.BuiltinFunctionType):
            self._computes(path, value)
            self.tokens.append(Same(value))
        elif not hasattr(value, "__dict__"):
            self.does_more = self.does_more or path
            self.tokens.append(Same(value))
        else:
            self._attributes(path, vars(value), list(vars(value)))

    def _computes(self, path: str, value: Any) -> None:
        """Notes what is not the user's, whose code could be read, and may do more than compute."""
        if is_foreign(value) and not only_computes(value):
            self.does_more = self.does_more or path or value.__name__

    def _hooks(self, hooks: Mapping) -> None:
        self.hooked = self.hooked or bool(hooks)
        self._items("hooks", hooks, list(hooks.items()))

    def _home(self, home: Any, name: Any, value: Any) -> None:
        self.homes.append(home)
        self.names.append(name)
        self.held.append(value)

    def _attributes(self, path: str, home: Mapping, names: list) -> None:
        # What is added may hide what was read, such as a step of the module's own.
        self.sized.append(home)
        for name in names:
            self.tokens.append(name)
            self._home(home, name, home[name])
            self.value(f"{path}.{name}" if path else name, home[name])

    def _items(self, path: str, home: Any, items: list[tuple[Any, Any]]) -> None:
        self.sized.append(home)
        self.tokens.append(len(items))
        for name, value in items:
            self.tokens.append(name if isinstance(name, int | str) else Same(name))
            self._home(home, name, value)
            self.value(f"{path}[{name!r}]", value)

    def _module(self, path: str, module: nn.Module, names: frozenset[str] | None = None) -> None:
        self.parametrised = self.parametrised or is_parametrized(module)
        own = {name: None for name in vars(module) if name not in INTERNAL} | {"training": None}
        for home, known in ((module._parameters, None), (module._buffers, None), (module._modules, None),
                            (vars(module), own)):  # fmt: skip
            wanted = [name for name in known or home if names is None or name in names]
            self._attributes(path, home, [name for name in wanted if name in home])
        if path and names is None:
            for hooks in _hooks(module):
                self._hooks(hooks)

    def _class(self, path: str, kind: type, names: frozenset[str] | None = None) -> None:
        """What classes of the user's define, and the step of any."""
        for base in kind.__mro__:
            own = vars(base)
            here = CALLED if is_foreign(base) else [n for n in own if not n.startswith("__") or n in BEHAVIOUR]
            for name in here:
                if name in own and (names is None or name in names):
                    self.tokens.append(name)
                    self._home(own, name, own[name])
                    self.value(f"{path}.{name}" if path else name, own[name])

    def _function(self, path: str, function: types.FunctionType) -> None:
        self.tokens.append(function.__code__)
        self.functions.append(function)
        if is_foreign(function):
            self._computes(path, function)
            self.tokens.append(Same(function))
            self._closure(path, function, types.FunctionType)  # of one that is around a user's
            return
        self.does_more = self.does_more or doing(function.__code__)
        for name in imported(function.__code__):
            self.does_more = self.does_more or (None if only_computes(name) else name)
        defaults = (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values())
        for i, value in enumerate(defaults):
            self.value(f"{path}.__defaults__[{i}]", value)
        self._closure(path, function, object)
        for name in global_names(function):
            value = function.__globals__[name]
            self.tokens.append(name)
            self._home(function.__globals__, name, value)
            if isinstance(value, types.ModuleType):
                self._python_module(name, value, function)
            else:
                self.value(f"{path}.{name}", value)

    def _closure(self, path: str, function: types.FunctionType, kind: type) -> None:
        """What a function closes over, of a kind."""
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            try:
                content = cell.cell_contents
            except ValueError:
                continue  # a name that is not bound yet
            if isinstance(content, kind):
                self.cells.append(cell)
                self.value(f"{path}.{name}", content)

    def _python_module(self, path: str, module: types.ModuleType, function: types.FunctionType) -> None:
        """Of a module of the user's, what the function may name."""
        if is_foreign(module):
            self._computes(path, module)
            return
        for name in names_in(function.__code__):
            if name in vars(module):
                self._home(vars(module), name, vars(module)[name])
                self.value(f"{path}.{name}", vars(module)[name])


def _hooks(module: nn.Module) -> Iterable[Mapping]:
    return module._forward_hooks, module._forward_pre_hooks
