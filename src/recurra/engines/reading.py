"""What a module's `step` reads besides its arguments: the tensors, by where they are found, and all else as one key.

Found are parameters and buffers under every name they have; plain attributes; what lies in lists, tuples, dicts and
objects; submodules with their settings and hooks; and what functions of the user name: globals, closures, defaults.
Two modules with equal keys do the same to the tensors of the same places.
"""

from __future__ import annotations

import dis
import functools
import types
from collections.abc import Callable, Hashable, Mapping
from enum import Enum
from itertools import chain, pairwise
from operator import attrgetter, getitem, is_
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from recurra.engines.foreign import is_foreign

FOUND = frozenset({"last_solve", "_step_plan", "_reading"})
"""Attributes that engines leave: a report, and what they have found out."""
INTERNAL = frozenset(vars(nn.Module())) | FOUND
"""These, and PyTorch's own."""
ROOTS = ("step", "combine", "as_delta_rule")
"""Methods that engines call."""
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
    """What a module's step reads, as it is now.

    It is compared at every call, so all loops are C's, over as few objects as can be.
    """

    def __init__(self, module: nn.Module):
        walk = _Walk()
        walk.owner(module)
        self.tensors: dict[str, Tensor] = walk.tensors
        self.parametrised = walk.parametrised
        kinds = tuple((name, t.shape, t.dtype, t.device, type(t)) for name, t in self.tensors.items())
        self.key = Key((type(module), tuple(walk.tokens), kinds))
        self.found: dict[Hashable, Any] = {}
        """What engines have found out about the step, which lasts as long as this does."""
        self._homes, self._names, self._held = walk.homes, walk.names, walk.held
        self._sized, self._lengths = walk.sized, list(map(len, walk.sized))
        self._cells, self._contents = walk.cells, [cell.cell_contents for cell in walk.cells]
        self._functions, self._codes = walk.functions, [function.__code__ for function in walk.functions]
        self._copied = walk.copied
        self._all = list(self.tensors.values())
        self._readings = [(read, list(map(read, self._all))) for read in _READINGS]

    @staticmethod
    def of(module: nn.Module) -> Reading:
        """Of a module; found out anew only if something has changed."""
        known = vars(module).get("_reading")
        if known is None or not known.holds():
            known = Reading(module)
            vars(module)["_reading"] = known
        return known

    def holds(self) -> bool:
        """Whether all still is what it was."""
        try:
            return (
                all(map(is_, map(getitem, self._homes, self._names), self._held))
                and list(map(len, self._sized)) == self._lengths
                and all(list(map(read, self._all)) == was for read, was in self._readings)
                and all(map(is_, map(_CONTENTS, self._cells), self._contents))
                and all(map(is_, map(_CODE, self._functions), self._codes))
                and all(_copy(value) == was for value, was in self._copied)
            )
        except Exception:
            # Something was taken away, or is now of a kind that cannot be compared.
            return False

    def __reduce__(self) -> tuple:
        # Copies of a module find out for themselves.
        return _nothing, ()


_CONTENTS, _CODE = attrgetter("cell_contents"), attrgetter("__code__")
_READINGS: tuple[Callable, ...] = (Tensor.size, attrgetter("dtype"))
"""What may change in a tensor that stays the same object, and with it the trace."""


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
        self.parametrised = False
        self._seen: dict[int, str] = {}
        self._first: dict[int, str] = {}

    def owner(self, module: nn.Module) -> None:
        """A recurrence: of its own attributes only those that its step can name, if that can be told."""
        self._seen[id(module)] = ""
        names = reached(module)
        self._class("", type(module), names)
        self._module("", module, names)

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
        elif isinstance(value, set | frozenset) or hasattr(value, "tobytes"):
            self.copied.append((value, _copy(value)))
            self.tokens.append(self.copied[-1][1])
        elif isinstance(value, property | staticmethod | classmethod):
            self.value(path, value.fget if isinstance(value, property) else value.__func__)
        elif isinstance(value, type):
            self.tokens.append(Same(value))
            self._class(path, value)
        elif isinstance(value, types.ModuleType | types.BuiltinFunctionType) or not hasattr(value, "__dict__"):
            self.tokens.append(Same(value))
        else:
            self._attributes(path, vars(value), list(vars(value)))

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
        if names is None:
            for hooks in (module._forward_hooks, module._forward_pre_hooks):
                self._items(f"{path}.hooks", hooks, list(hooks.items()))

    def _class(self, path: str, kind: type, names: frozenset[str] | None = None) -> None:
        """What classes of the user's define, and the step of any."""
        for base in kind.__mro__:
            own = vars(base)
            here = ROOTS if is_foreign(base) else [n for n in own if not n.startswith("__")]
            for name in here:
                if name in own and (names is None or name in names):
                    self.tokens.append(name)
                    self._home(own, name, own[name])
                    self.value(f"{path}.{name}" if path else name, own[name])

    def _function(self, path: str, function: types.FunctionType) -> None:
        self.tokens.append(function.__code__)
        self.functions.append(function)
        if is_foreign(function):
            self.tokens.append(Same(function))
            return
        defaults = (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values())
        for i, value in enumerate(defaults):
            self.value(f"{path}.__defaults__[{i}]", value)
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            try:
                content = cell.cell_contents
            except ValueError:
                continue  # a name that is not bound yet
            self.cells.append(cell)
            self.value(f"{path}.{name}", content)
        for name in global_names(function):
            value = function.__globals__[name]
            self.tokens.append(name)
            self._home(function.__globals__, name, value)
            if isinstance(value, types.ModuleType):
                self._python_module(name, value, function)
            else:
                self.value(f"{path}.{name}", value)

    def _python_module(self, path: str, module: types.ModuleType, function: types.FunctionType) -> None:
        """Of a module of the user's, what the function may name."""
        if is_foreign(module):
            return
        for name in names_in(function.__code__):
            if name in vars(module):
                self._home(vars(module), name, vars(module)[name])
                self.value(f"{path}.{name}", vars(module)[name])


def names_in(code: types.CodeType) -> list[str]:
    """Every global and attribute that code names, that of functions within it as well."""
    inner = (names_in(part) for part in code.co_consts if isinstance(part, types.CodeType))
    return list(dict.fromkeys(chain(code.co_names, *inner)))


def global_names(function: types.FunctionType) -> list[str]:
    """Of the names in a function those that are globals of its module."""
    return [name for name in names_in(function.__code__) if name in function.__globals__]


def reached(module: nn.Module) -> frozenset[str] | None:
    """Names of the attributes that a recurrence's step, and the methods it calls, can read of it; None if it hands
    itself on, so that anything may be read."""
    names, left = set(ROOTS), list(ROOTS)
    while left:
        found = getattr(type(module), left.pop(), None)
        if isinstance(found, property):
            found = found.fget
        if not isinstance(found, types.FunctionType):
            continue
        own = _names_of_first(found.__code__)
        if own is None:
            return None
        left += own - names
        names |= own
    return None if any(name in vars(module) for name in ROOTS) else frozenset(names)


@functools.lru_cache(4096)
def _names_of_first(code: types.CodeType) -> frozenset[str] | None:
    """The attributes of its first argument that a function names; None if it does anything else with it."""
    if not code.co_argcount or code.co_varnames[0] in code.co_cellvars or "super" in code.co_names:
        return None
    first, names = code.co_varnames[0], set()
    instructions = list(dis.get_instructions(code))
    for instruction, following in pairwise(instructions):
        if instruction.argval == first and instruction.opname.startswith(("LOAD_FAST", "STORE_FAST", "DELETE_FAST")):
            if instruction.opname != "LOAD_FAST" or following.opname not in ("LOAD_ATTR", "LOAD_METHOD", "STORE_ATTR"):
                return None
            names.add(following.argval)
    return frozenset(names)
