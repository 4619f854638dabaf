"""The laws every layer keeps on every engine. Each raises AssertionError when it is broken.

Hold your own recurrence to all of them with `check_recurrence(lambda: MyRecurrence(8))`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import torch

from recurra.cli.show import progress
from recurra.contract import Layer
from recurra.engines.choose import ENGINES
from recurra.errors import InputError
from recurra.options import function, shown
from recurra.recurrence import Recurrence
from recurra.testing import forms, numbers, objects
from recurra.testing.cases import Make, draw


@dataclass(frozen=True)
class Law:
    """A function that raises AssertionError when a layer breaks it, and where it says something."""

    hold: Callable[[Make, str, torch.dtype], None]
    applies: Callable[[str, torch.dtype], bool] = lambda _engine, _dtype: True
    once: bool = False
    """Whether one dtype is as good as another."""
    fresh: bool = False
    """Whether it needs layers drawn anew; for the others, one is traced and planned once."""

    @property
    def name(self) -> str:
        """The function's."""
        return self.hold.__name__

    def __call__(self, make: Make, engine: str, dtype: torch.dtype) -> None:
        """Hold a layer to it."""
        self.hold(make, engine, dtype)


def _in_float64(_engine: str, dtype: torch.dtype) -> bool:
    return dtype is torch.float64


def _by_steps(engine: str, dtype: torch.dtype) -> bool:
    """Where hundreds of time steps take a time that is known: Newton's method may need many iterations of each."""
    return dtype is torch.float64 and engine != "newton"


LAWS: dict[str, Law] = {
    law.name: law
    for law in (
        Law(forms.same_as_reference),
        Law(forms.cut_anywhere),
        Law(forms.single_steps, once=True),
        Law(forms.packed_and_padded),
        Law(forms.beside_x, once=True),
        Law(forms.rows_are_alone, once=True),
        Law(forms.long_sequences, _by_steps),
        Law(numbers.gradients_are_derivatives, _in_float64),
        Law(numbers.rounds_like_the_reference, lambda _engine, dtype: dtype is not torch.float64),
        Law(numbers.nan_stays_where_it_is),
        Law(forms.any_shape, once=True),
        Law(objects.is_a_module, once=True, fresh=True),
        Law(objects.is_traceable, lambda engine, _dtype: engine == "loop", once=True),
        Law(forms.path_is_known, once=True),
    )
}
"""Every law by name."""


def engines_for(make: Make, dtype: torch.dtype) -> list[str]:
    """Engines that do not refuse the layer; of those that compile it and replay it, the first."""
    case = draw(make, dtype)
    if not isinstance(case.layer, Recurrence):
        return [name for name, reason in case.layer.refusals(case.x, **case.beside).items() if reason is None]
    problem, able = case.layer.outline(case.x, **case.beside), []
    for name, engine in ENGINES.items():
        if not (name == "replay" and "compiled" in able) and engine.refuses(problem) is None:
            able.append(name)
    return able


def check_recurrence(
    make: Make,
    engines: Collection[str] | None = None,
    dtypes: Collection[torch.dtype] = (torch.float64, torch.float32),
    *,
    except_for: Mapping[str, str] | None = None,
) -> None:
    """Hold a recurrence to every law on every engine that can run it.

    Args:
        make: builds a fresh small layer, for example `lambda: MyRecurrence(8)`.
        engines: names; by default all that do not refuse.
        dtypes: real dtypes to try. Laws that do not depend on the dtype are held in the first.
        except_for: laws that it need not keep, each with the reason: `{"gradients_are_derivatives": "the gradient of
            round is passed straight through"}`.

    Raises:
        AssertionError: a law is broken, or there is an exception that is not needed; the message says which, on which
            engine, and how.
        InputError: an argument is of another type.
    """
    function("make", make)
    for name, given, kind in (("engines", () if engines is None else engines, str), ("dtypes", dtypes, torch.dtype)):
        listed = isinstance(given, Collection) and not isinstance(given, str)
        if not listed or not all(isinstance(value, kind) for value in given):
            raise InputError(f"{name} is {shown(given)}; expected a list of {kind.__name__}")
    excepted = _exceptions(except_for)
    kept = {dtype: _kept(make().to(dtype)) for dtype in dtypes}
    calls = [
        (law, engine, dtype)
        for dtype in dtypes
        for engine in (engines_for(kept[dtype], dtype) if engines is None else engines)
        for law in LAWS.values()
        if law.applies(engine, dtype) and not (law.once and dtype is not next(iter(dtypes)))
    ]
    needless = dict(excepted)
    with progress("laws", len(calls)) as update:
        for done, (law, engine, dtype) in enumerate(calls):
            update(done, f"{law.name} on {engine} in {str(dtype)[6:]}")
            if law.name in excepted and law.name not in needless:
                continue
            try:
                law(make if law.fresh else kept[dtype], engine, dtype)
            except Exception as error:
                if needless.pop(law.name, None) is None:
                    raise AssertionError(f"law {law.name} on engine {engine!r} in {dtype}: {_said(error)}") from error
        update(len(calls))
    for name, reason in needless.items():
        raise AssertionError(f"law {name} is kept: take it out of except_for, where it stands for {reason!r}")


def _kept(layer: Layer) -> Make:
    return lambda: layer


def _exceptions(except_for: Mapping[str, str] | None) -> Mapping[str, str]:
    """Names of laws to reasons, looked at."""
    given = {} if except_for is None else except_for
    if not isinstance(given, Mapping) or not all(isinstance(r, str) and r.strip() for r in given.values()):
        raise InputError(f"except_for is {shown(except_for)}; expected a dict from names of laws to reasons")
    for name in given:
        if name not in LAWS:
            raise InputError(f"except_for names {shown(name)}; the laws are {', '.join(LAWS)}")
    return given


def _said(error: Exception) -> str:
    """What an error said, and of which kind it is if it is not a law's own."""
    return str(error) if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"
