"""What a layer takes beside x, and gives beside y: inputs and auxiliary outputs [B, T, ...], each by a name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from typing import Any, Protocol

import torch
from torch import Tensor

from recurra import check
from recurra.errors import InputError
from recurra.options import shown

ELAPSED = "elapsed"
"""The input that means the same everywhere: [B, T], the time since the step before, one where nobody says."""

OF_THE_CALL = ("x", "state", "resets", "lengths", "engine", "aux")
"""Arguments that a call has anyway."""

Named = Mapping[str, Tensor]


class Taker(Protocol):
    """What can be called with inputs beside x."""

    @property
    def beside(self) -> Mapping[str, bool]:
        """Their names, and whether each has to be given."""
        ...


def taken_by(owner: str, inputs: Callable) -> dict[str, bool]:
    """The names of what the method `inputs` of a class takes by keyword only, and whether each has to be given.

    Raises InputError if one is the name of an argument that every call has.
    """
    own = [p for p in inspect.signature(inputs).parameters.values() if p.kind is p.KEYWORD_ONLY]
    if wrong := [p.name for p in own if p.name in OF_THE_CALL]:
        raise InputError(f"{owner}.inputs takes {wrong[0]!r}, an argument that every call has: give it another name")
    return {p.name: p.default is p.empty for p in own}


def taken_by_all(parts: Iterable[Taker]) -> dict[str, bool]:
    """The names of what modules that are called one after another take, and whether one of them has to be given it."""
    found: dict[str, bool] = {}
    for part in parts:
        for name, needed in part.beside.items():
            found[name] = needed or found.get(name, False)
    return found


def for_part(part: Taker, given: Named) -> dict[str, Tensor]:
    """Those that a part of a module takes."""
    return {name: given[name] for name in part.beside if name in given}


def named(owner: str, known: Mapping[str, bool], given: Mapping[str, Tensor | None]) -> dict[str, Tensor]:
    """What was given by name, but for None. Raises InputError if a name is not known, or one is missing."""
    for name in given:
        if name not in known:
            close = get_close_matches(name, [*known, *OF_THE_CALL], 1, 0.6)
            takes = f"beside x it takes {', '.join(known)}" if known else "it takes nothing beside x"
            if name == ELAPSED:
                takes += ", and has no step for time to lengthen: make the time elapsed a channel of x"
            raise InputError(
                f"{owner} was given {name!r}; " + (f"did you mean {close[0]!r}? " if close else "") + takes
            )
    for name, needed in known.items():
        if needed and given.get(name) is None:
            raise InputError(
                f"{owner} was not given {name!r}, which it needs beside x: call it with {name}=[B, T, ...]"
            )
    return {name: value for name, value in given.items() if value is not None}


def at_steps(
    given: Mapping[str, Any], shape: torch.Size, device: torch.device, valid: Tensor | None
) -> dict[str, Tensor]:
    """Each [B, T, ...] as x is, with zeros where x is padding, and ones there for the time elapsed.

    Raises InputError if one does not fit, or time does not go on.
    """
    checked = {}
    for name, value in given.items():
        if not isinstance(value, Tensor) or value.shape[:2] != shape or (name == ELAPSED and value.dim() > 2):
            more = "" if name == ELAPSED else ", ..."
            raise InputError(f"{name} is {check.describe(value)}; expected [{shape[0]}, {shape[1]}{more}], as x has")
        if value.device != device:
            raise InputError(f"{name} is on {value.device}, x on {device}: move one of them")
        if valid is not None:
            value = value.masked_fill(~over(valid, value), 1 if name == ELAPSED else 0)
        checked[name] = value
    if ELAPSED in checked:
        _expect_time_to_go_on(checked[ELAPSED])
    return checked


def over(valid: Tensor, value: Tensor) -> Tensor:
    """[B, T] as a mask of a value [B, T, ...]."""
    return valid[(..., *[None] * (value.dim() - 2))]


def _expect_time_to_go_on(elapsed: Tensor) -> None:
    if elapsed.dtype is torch.bool or elapsed.is_complex():
        raise InputError(f"elapsed is {check.describe(elapsed)}; expected numbers")
    seen = check.unwrapped(elapsed)
    if torch.compiler.is_compiling() or seen.is_meta:
        return  # there are no numbers yet
    wrong = ~((seen > 0) & seen.isfinite())
    if wrong.any():
        place = wrong.nonzero()[0].tolist()
        raise InputError(
            f"elapsed{place} is {seen[tuple(place)].item()}; expected positive, finite numbers: the time since the "
            "step before, 1 if it went on as usual"
        )


def outputs(owner: str, result: object, shape: torch.Size) -> tuple[Tensor, dict[str, Tensor]]:
    """What `outputs` returned: y [B, T, ...], and the outputs beside it, which are cut as x is."""
    y, beside = result if isinstance(result, tuple) and len(result) == 2 else (result, {})
    leading = f"[{shape[0]}, {shape[1]}, ...]"
    if not isinstance(y, Tensor) or y.shape[:2] != shape:
        raise InputError(f"{owner}.outputs returned {check.describe(y)}; expected {leading}")
    if not isinstance(beside, Mapping):
        raise InputError(f"{owner}.outputs returned {check.describe(beside)} beside y; expected names to {leading}")
    for name, value in beside.items():
        if not isinstance(name, str) or not isinstance(value, Tensor) or value.shape[:2] != shape:
            raise InputError(
                f"{owner}.outputs returned {shown(name)} beside y as {check.describe(value)}; expected {leading}: one "
                "value for each time step, so that cutting a sequence cuts it too"
            )
    return y, dict(beside)


def one_step(module: Any, x_t: Tensor, state: Any, **options: Any) -> tuple[Any, ...]:
    """A call of one time step: x_t and what else is given [B, ...], to y_t, the next state and what else there is."""
    options = {name: value[:, None] if isinstance(value, Tensor) else value for name, value in options.items()}
    y, after, *more = module(x_t[:, None], state, **options)
    return y[:, 0], after, *({name: value[:, 0] for name, value in one.items()} for one in more)


def prefixed(prefix: str, named: Named) -> dict[str, Tensor]:
    """Each under the name of the part it comes from."""
    return {f"{prefix}.{name}": value for name, value in named.items()}
