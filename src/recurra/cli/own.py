"""`--import`: layers of one's own, from a file or a module, for every verb that takes names or reads models."""

from __future__ import annotations

import importlib.util
import os
import sys
import traceback
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Annotated

import typer

from recurra.errors import InputError, one_line

Imports = Annotated[
    list[str] | None,
    typer.Option(
        "--import",
        metavar="FILE|MODULE",
        help="Import layers of your own: a Python file, a module, or a name that a package offers. May be repeated.",
    ),
]


def take(imports: list[str] | None, *named: str | None) -> None:
    """Import what was given, and register the layers defined there as `module:Class`, but those it registers itself.

    Args:
        named: names and patterns that were given; modules that they name are looked for in the working directory too.

    Raises InputError if it cannot be imported.
    """
    if not imports and not any(":" in one for one in named if one):
        return
    _look_in(os.getcwd())
    for what in imports or ():
        _take(what)


def _take(what: str) -> None:
    from recurra import registry

    before = set(registry.OWN)
    if registry.is_offered(what):
        registry.layer_class(what)
    else:
        module = _file(Path(what)) if what.endswith(".py") else _module(what)
        for kind in _layers_of(module):
            registry.register(f"{module.__name__}:{kind.__qualname__}", kind)
    origin = os.path.abspath(what) if what.endswith(".py") else what
    registry.ORIGINS.update(dict.fromkeys(registry.OWN.keys() - before, origin))


def _layers_of(module: ModuleType) -> list[type]:
    """The layers that a module defines and has not registered."""
    from recurra import registry
    from recurra.contract import Layer

    own = [kind for kind in vars(module).values() if isinstance(kind, type) and issubclass(kind, Layer)]
    own = [kind for kind in own if kind.__module__ == module.__name__ and not kind.__name__.startswith("_")]
    return [kind for kind in own if kind not in registry.OWN.values()]


def _file(path: Path) -> ModuleType:
    """A file as a module of its own name, whose neighbours it may import."""
    path, name = path.absolute(), path.stem
    if not path.is_file():
        raise InputError(f"import is {str(path)!r}; there is no such file")
    known = sys.modules.get(name)
    if known is not None and getattr(known, "__file__", None) == str(path):
        return known
    if known is not None or name in sys.stdlib_module_names or not name.isidentifier():
        raise InputError(f"import is {str(path)!r}; {name!r} cannot be the name of another module: rename the file")
    _look_in(str(path.parent))
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None  # noqa: PT018
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # of any kind: it is the user's own code
        del sys.modules[name]
        raise _failed(str(path), error) from error
    return module


def _module(name: str) -> ModuleType:
    try:
        return import_module(name)
    except Exception as error:  # as above
        raise _failed(name, error) from error


def _failed(what: str, error: Exception) -> InputError:
    """What went wrong, with the line of the user's that it came from."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename != __file__]
    own = [f"{f.filename}:{f.lineno}" for f in frames if "importlib" not in f.filename]
    where = f", at {own[-1]}" if own else ""
    return InputError(f"import is {what!r}; it ended in {type(error).__name__}: {one_line(error)}{where}")


def _look_in(folder: str) -> None:
    """Find modules in a folder as well, after all other places."""
    if folder not in sys.path:
        sys.path.append(folder)
