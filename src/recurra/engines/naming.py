"""What functions name: globals, attributes of what they are given, builtins, imports. It is read off their code."""

from __future__ import annotations

import dis
import functools
import types
from collections.abc import Iterable
from itertools import chain, pairwise

from torch import nn

from recurra.engines.foreign import is_foreign

BEHAVIOUR = frozenset({"__call__", "__getattr__", "__getattribute__", "__setattr__"})
"""Methods with two underscores that calling a module may run."""
DOING = frozenset({"print", "input", "open", "breakpoint", "exec", "eval", "compile", "globals", "id", "__import__"})
"""Builtins that do more than compute, or whose results differ from call to call."""


def names_in(code: types.CodeType) -> list[str]:
    """Every global and attribute that code names, that of functions within it as well."""
    inner = (names_in(part) for part in code.co_consts if isinstance(part, types.CodeType))
    return list(dict.fromkeys(chain(code.co_names, *inner)))


def global_names(function: types.FunctionType) -> list[str]:
    """Of the names in a function those that are globals of its module."""
    return [name for name in names_in(function.__code__) if name in function.__globals__]


@functools.lru_cache(4096)
def doing(code: types.CodeType) -> str | None:
    """A builtin in some code that does more than compute, or None."""
    inner = (doing(part) for part in code.co_consts if isinstance(part, types.CodeType))
    own = (i.argval for i in dis.get_instructions(code) if i.opname in ("LOAD_GLOBAL", "LOAD_NAME"))
    return next((name for name in chain(own, filter(None, inner)) if name in DOING), None)


@functools.lru_cache(4096)
def imported(code: types.CodeType) -> tuple[str, ...]:
    """Modules that code imports when it runs."""
    inner = (imported(part) for part in code.co_consts if isinstance(part, types.CodeType))
    own = (i.argval for i in dis.get_instructions(code) if i.opname == "IMPORT_NAME")
    return tuple(chain(own, *inner))


def overridden(kind: type) -> list[str]:
    """Methods that a user's class has in place of PyTorch's and this library's, which may be called at any time."""
    bases = [base for base in kind.__mro__ if is_foreign(base) and base is not object]
    return [
        name
        for base in kind.__mro__ if not is_foreign(base)
        for name, value in vars(base).items()
        if (not name.startswith("__") or name in BEHAVIOUR) and callable(value) and any(name in vars(b) for b in bases)
    ]  # fmt: skip


def reached(module: nn.Module, roots: Iterable[str]) -> frozenset[str] | None:
    """Names of the attributes that some methods of a module, and those they call, can read of it; None if it hands
    itself on, so that anything may be read."""
    names, left = set(roots), list(roots)
    if any(name in vars(module) for name in names):
        return None
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
    return frozenset(names)


@functools.lru_cache(4096)
def _names_of_first(code: types.CodeType) -> frozenset[str] | None:
    """The attributes of its first argument that a function names; None if it does anything else with it."""
    if not code.co_argcount or code.co_varnames[0] in code.co_cellvars or "super" in code.co_names:
        return None
    first, names = code.co_varnames[0], set()
    for instruction, following in pairwise(dis.get_instructions(code)):
        if "_FAST" in instruction.opname and _mentions(instruction.argval, first):
            plain = instruction.opname in ("LOAD_FAST", "LOAD_FAST_BORROW")
            if not plain or following.opname not in ("LOAD_ATTR", "LOAD_METHOD", "STORE_ATTR"):
                return None
            names.add(following.argval)
    return frozenset(names)


def _mentions(argument: object, name: str) -> bool:
    """Whether an instruction is about a variable; some are about two."""
    return argument == name or (isinstance(argument, tuple) and name in argument)
