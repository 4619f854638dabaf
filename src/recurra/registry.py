"""Names for recurrences: what the command line, the laws and the documents read. One line each."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from recurra.errors import InputError
from recurra.recurrence import Recurrence

REGISTRY = {
    "rnn": "rnn.RNN",
    "min-gru": "min_gru.MinGRU",
    "mamba": "mamba.Mamba",
}
"""Public name -> file and class in `recurra.recurrences`."""


def layers() -> dict[str, type[Recurrence]]:
    """Every registered recurrence: name -> class."""
    return {name: _load(where) for name, where in REGISTRY.items()}


def layer_class(name: str) -> type[Recurrence]:
    """The class registered under `name`; case, hyphens and underscores do not matter."""
    plain = {_plain(known): where for known, where in REGISTRY.items()}
    if not isinstance(name, str) or _plain(name) not in plain:
        raise InputError(f"layer {name!r} is not known; expected one of {', '.join(REGISTRY)}")
    return _load(plain[_plain(name)])


def layer(name: str, width: int, **options: Any) -> Recurrence:
    """Build the layer registered under `name` for inputs of `width` channels.

    Raises InputError for an unknown name or an option the layer does not have.
    """
    built = layer_class(name)
    try:
        return built(width, **options)
    except TypeError as error:
        raise InputError(f"layer {name!r}: {error}") from error


def _load(where: str) -> type[Recurrence]:
    module, name = where.split(".")
    return getattr(import_module(f"recurra.recurrences.{module}"), name)


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")
