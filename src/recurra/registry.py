"""Layers by name: what the command line, the laws and the documents read. `catalogue.py` has the names."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from recurra.catalogue import FAMILIES
from recurra.errors import InputError
from recurra.facts import About, of_source
from recurra.options import choice, count, flag, instance

if TYPE_CHECKING:
    from recurra.contract import Layer
    from recurra.models.stacked import Stacked

LIBRARY = {name: where for family in FAMILIES.values() for name, where in family.layers.items()}
"""Public name -> file and class."""


class Layers(Mapping[str, "type[Layer]"]):
    """Names to classes, in the order of their families; a class is imported when it is asked for."""

    def __init__(self, names: list[str]):
        self._names = dict.fromkeys(names)

    def __getitem__(self, name: str) -> type[Layer]:
        if name not in self._names:
            raise KeyError(name)
        return layer_class(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __repr__(self) -> str:
        return f"Layers({', '.join(self)})"


def layers(*, family: str | None = None, search: str = "") -> Layers:
    """Every registered layer: name -> class, imported when it is asked for.

    Args:
        family: only those of one family.
        search: only those with all of these words in their name, family, lane, or in the title, authors and year of
            their paper.

    Raises InputError if there is no such family.
    """
    if family is not None:
        choice("family", family, tuple(FAMILIES))
    instance("search", search, str)
    chosen = (about(name) for name in LIBRARY) if family or search else ()
    names = [one.name for one in chosen if family in (None, one.family) and one.matches(search)]
    return Layers(names if family or search else list(LIBRARY))


def about(name: str) -> About:
    """What there is to know about the layer registered under `name`: family, paper, lane, structure, engines.

    Nothing is imported for it but for the last two. Raises InputError for an unknown name.
    """
    known = _resolved(name)
    family = next(key for key, family in FAMILIES.items() if known in family.layers)
    module, kind = LIBRARY[known].split(".")
    return of_source(known, family, _file(module), kind, partial(layer_class, known))


def layer_class(name: str) -> type[Layer]:
    """The class registered under `name`; case, hyphens and underscores do not matter."""
    module, kind = LIBRARY[_resolved(name)].split(".")
    return getattr(import_module(f"recurra.{_file(module).replace('/', '.')}"), kind)


def layer(
    name: str, width: int, *, num_layers: int = 1, bidirectional: bool = False, **options: Any
) -> Layer | Stacked:
    """Build the layer registered under `name` for inputs of `width` channels.

    Args:
        num_layers, bidirectional: more than one layer, or both directions, give a `Stacked`.
        options: of the layer's own class.

    Raises:
        InputError: an unknown name, or an option the layer does not have.
    """
    kind = layer_class(name)

    def make(width: int) -> Layer:
        return kind(width, **options)

    known = _options_of(kind)
    if strange := [key for key in options if key not in known]:
        listed = ", ".join(f"{key}={default!r}" for key, default in known.items()) or "none"
        raise InputError(f"layer {name!r} has no option {strange[0]!r}; its options and their defaults are {listed}")
    if count("num_layers", num_layers) == 1 and not flag("bidirectional", bidirectional):
        return make(width)
    from recurra.models.stacked import Stacked

    return Stacked(make, width, num_layers, bidirectional)


def _resolved(name: str) -> str:
    """A name as it is registered."""
    plain = {_plain(known): known for known in LIBRARY}
    if not isinstance(name, str) or _plain(name) not in plain:
        close = get_close_matches(str(name).lower(), LIBRARY, 3, 0.5)
        hint = f"did you mean {' or '.join(close)}?" if close else f"expected one such as {', '.join([*LIBRARY][:3])};"
        raise InputError(f"layer {name!r} is not known; {hint} `recurra layers` lists all {len(LIBRARY)}")
    return plain[_plain(name)]


def _file(module: str) -> str:
    """The path of a file of the catalogue below the package."""
    return module if "/" in module else f"recurrences/{module}"


def _options_of(kind: type[Layer]) -> dict[str, Any]:
    """What a layer takes besides its width, with defaults; one that passes options on has those of its base too."""
    known: dict[str, Any] = {}
    for init in (vars(owner)["__init__"] for owner in kind.__mro__ if "__init__" in vars(owner)):
        _, _, *parameters = inspect.signature(init).parameters.values()
        known |= {p.name: p.default for p in parameters if p.kind is not p.VAR_KEYWORD and p.name not in known}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return known


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")
