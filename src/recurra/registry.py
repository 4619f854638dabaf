"""Layers by name: those of `catalogue.py`, those that were registered, and those that installed packages offer."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from difflib import get_close_matches
from functools import cache, partial
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

from recurra.catalogue import FAMILIES
from recurra.errors import InputError, one_line
from recurra.facts import About, of_class, of_source
from recurra.options import choice, count, flag, instance, shown

if TYPE_CHECKING:
    from recurra.contract import Layer
    from recurra.models.stacked import Stacked

LIBRARY = {name: where for family in FAMILIES.values() for name, where in family.layers.items()}
"""Public name -> file and class."""
OWN: dict[str, type[Layer]] = {}
"""Names that were registered, and their classes."""
OWN_FAMILY, GROUP = "own", "recurra.layers"
"""The family of these, and of what packages offer; the group of entry points under which they do."""

NAME, DOTTED = re.compile(r"\w[\w-]*"), re.compile(r"\w[\w.]*:\w[\w.]*")
"""What a name looks like, and what says where a class is."""


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
    """Every layer that has a name, those of the library first: name -> class, imported when it is asked for.

    Args:
        family: only those of one family; "own" are those that do not come with the library.
        search: only those with all of these words in their name, family, lane, or in the title, authors and year of
            their paper.

    Raises InputError if there is no such family.
    """
    if family is not None:
        choice("family", family, (*FAMILIES, OWN_FAMILY))
    instance("search", search, str)
    names = [*LIBRARY, *OWN, *(name for name in _offered() if name not in OWN)]
    if family or search:
        found = [about(name) for name in names]
        names = [one.name for one in found if family in (None, one.family) and one.matches(search)]
    return Layers(names)


def about(name: str) -> About:
    """What there is to know about the layer named so: family, paper, lane, structure, engines.

    Of the library's layers nothing is imported for it but for the last two; what a package offers tells nothing before
    it is imported. Raises InputError for an unknown name.
    """
    known = _resolved(name)
    if known in OWN:
        return of_class(known, OWN_FAMILY, OWN[known])
    load = partial(layer_class, known)
    if known not in LIBRARY:
        return About(known, OWN_FAMILY, load=load)
    family = next(key for key, family in FAMILIES.items() if known in family.layers)
    module, kind = LIBRARY[known].split(".")
    return of_source(known, family, _file(module), kind, load)


def register(name: str, kind: type[Layer]) -> type[Layer]:
    """Give a layer of one's own a name, for patterns, models and the command line; returns the class.

    Args:
        name: letters, digits, hyphens and underscores.
        kind: derived from `Recurrence` or `Attention`; defined anew, as in a notebook, it takes the place of itself.

    Raises:
        InputError: the name is taken or holds other characters, or `kind` is not the class of a layer.
    """
    if not isinstance(name, str) or not (NAME.fullmatch(name) or DOTTED.fullmatch(name)):
        raise InputError(f"name is {shown(name)}; expected letters, digits, hyphens and underscores, as in 'my-cell'")
    _expect_layer("kind", kind)
    taken = _known(name)
    if taken in LIBRARY:
        raise InputError(f"name {name!r} is taken by {taken!r} of the library; choose another")
    if taken is not None and _place(OWN[taken]) != _place(kind):
        raise InputError(f"name {name!r} is taken by {_place(OWN[taken])}; choose another")
    OWN.pop(taken or name, None)
    OWN[name] = kind
    return kind


def layer_class(name: str | type[Layer]) -> type[Layer]:
    """The class named so; case, hyphens and underscores do not matter. The class of a layer is itself.

    Besides registered names, `package.module:Class` and the names that installed packages offer as entry points in the
    group `recurra.layers` are imported here, and are registered from then on.

    Raises InputError for an unknown name, or one that cannot be imported.
    """
    if isinstance(name, type):
        return _expect_layer("name", name)
    known = _resolved(name)
    if known in OWN:
        return OWN[known]
    if known not in LIBRARY:
        return register(known, _loaded(_offered()[known]))
    module, kind = LIBRARY[known].split(".")
    return getattr(import_module(f"recurra.{_file(module).replace('/', '.')}"), kind)


def is_offered(name: str) -> bool:
    """Whether an installed package offers a layer of that name."""
    return name in _offered()


class Unregistered(InputError):
    """A file names a layer that this process does not have."""


_NOTHING = object()
_file_says: ContextVar[object] = ContextVar("_file_says")
"""While names come out of a file, what it says of where each is from."""


@contextmanager
def from_a_file(origins: object = None) -> Iterator[None]:
    """Within, names are those of a file, which may import no code: one that is not registered raises Unregistered.

    Args:
        origins: what the file says of where each name comes from, as `origins` wrote it.
    """
    token = _file_says.set(origins)
    try:
        yield
    finally:
        _file_says.reset(token)


def _expect_no_file(name: str) -> None:
    """Raise Unregistered, which says how to have the layer, where its name comes out of a file."""
    told = _file_says.get(_NOTHING)
    if told is _NOTHING:
        return
    source = told.get(name) if isinstance(told, Mapping) else None
    source = source if isinstance(source, str) else name if is_offered(name) else None
    what = "FILE, which defines it" if source is None else repr(source[:300])
    raise Unregistered(
        f"layer {shown(name)} is not known here, and a file may not import it: give --import {what}, or in Python call "
        f"recurra.register({shown(name)}, its class) before"
    )


ORIGINS: dict[str, str] = {}
"""Names of one's own layers to the file they were taken from on the command line."""


def origins(names: Iterable[str]) -> dict[str, str]:
    """Of those of the names that are not the library's, what `--import` takes to have them."""
    own = {known for name in names if (known := _known(name)) in OWN}
    told = {name: ORIGINS.get(name, OWN[name].__module__) for name in sorted(own)}
    return {name: origin for name, origin in told.items() if origin != "__main__"}


def layer(
    name: str | type[Layer], width: int, *, num_layers: int = 1, bidirectional: bool = False, **options: Any
) -> Layer | Stacked:
    """Build the layer named so, or of this class, for inputs of `width` channels.

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
        called = kind.__name__ if isinstance(name, type) else name
        raise InputError(f"layer {called!r} has no option {strange[0]!r}; its options and their defaults are {listed}")
    if count("num_layers", num_layers) == 1 and not flag("bidirectional", bidirectional):
        return make(width)
    from recurra.models.stacked import Stacked

    return Stacked(make, width, num_layers, bidirectional)


def _resolved(name: object) -> str:
    """A name as it is registered, or offered; what `module:Class` names is registered by that."""
    if not isinstance(name, str):
        raise InputError(f"layer {shown(name)} is not known; expected a name, or the class of a layer")
    if (known := _known(name)) is not None:
        return known
    _expect_no_file(name)
    if DOTTED.fullmatch(name):
        register(name, _loaded(EntryPoint(name, name, GROUP)))
        return name
    offered = {_plain(one): one for one in _offered()}
    if (plain := _plain(name)) in offered:
        return offered[plain]
    names = [*LIBRARY, *OWN, *offered.values()]
    close = get_close_matches(name.lower(), names, 3, 0.5)
    hint = f"did you mean {' or '.join(close)}?" if close else f"expected one such as {', '.join(names[:3])};"
    raise InputError(f"layer {name!r} is not known; {hint} `recurra layers` lists all {len(names)}")


def _known(name: str) -> str | None:
    """A name as it is registered, or None."""
    if name in LIBRARY or name in OWN:
        return name
    return {_plain(known): known for known in [*OWN, *LIBRARY] if ":" not in known}.get(_plain(name))


@cache
def _offered() -> dict[str, EntryPoint]:
    """What installed packages offer, by name; those that patterns cannot hold are left out."""
    return {one.name: one for one in entry_points(group=GROUP) if NAME.fullmatch(one.name) and one.name not in LIBRARY}


def _loaded(one: EntryPoint) -> Any:
    """What an entry point stands for."""
    try:
        return one.load()
    except Exception as error:  # of any kind: it runs the code of others
        raise InputError(f"layer {one.name!r}: {one.value} cannot be imported: {one_line(error)}") from error


def _expect_layer(what: str, kind: object) -> type[Layer]:
    from recurra.contract import Layer

    if not isinstance(kind, type) or not issubclass(kind, Layer):
        raise InputError(f"{what} is {shown(kind)}; expected a class derived from recurra.Recurrence or Attention")
    return kind


def _place(kind: type) -> str:
    return f"{kind.__module__}:{kind.__qualname__}"


def _file(module: str) -> str:
    """The path of a file of the catalogue below the package."""
    return module if "/" in module else f"recurrences/{module}"


def _options_of(kind: type[Layer]) -> dict[str, Any]:
    """What a layer takes besides its width, with defaults; one that passes options on has those of its base too."""
    known: dict[str, Any] = {}
    for init in (vars(owner)["__init__"] for owner in kind.__mro__ if "__init__" in vars(owner)):
        parameters = list(inspect.signature(init).parameters.values())
        first = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)][:2]  # self, width
        named = [p for p in parameters if p not in first and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
        known |= {p.name: p.default for p in named if p.name not in known}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return known


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")
