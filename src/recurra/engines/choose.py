"""Which engine runs a problem, and a way to see which one did."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from recurra.engines import compiled, loop
from recurra.errors import EngineRefused, InputError
from recurra.problem import Problem, Rollout

ENGINES = {"compiled": compiled, "loop": loop}
"""Every engine by its public name: a module with `refuses(problem) -> reason or None` and `run(problem)`."""

_observers: list[list[str]] = []


def run(problem: Problem, engine: str) -> Rollout:
    """Run `problem` on the engine named, or for "auto" on the first of `ENGINES` that does not refuse.

    Raises InputError for an unknown name and EngineRefused, with the reason, if the engine named cannot run it.
    """
    name = choose(problem) if engine == "auto" else engine
    if name not in ENGINES:
        raise InputError(f"engine is {engine!r}; expected 'auto' or one of {', '.join(map(repr, ENGINES))}")
    if engine != "auto" and (reason := ENGINES[name].refuses(problem)):
        raise EngineRefused(f"engine {name!r} cannot run this recurrence: {reason}")
    for seen in _observers:
        seen.append(name)
    return ENGINES[name].run(problem)


def choose(problem: Problem) -> str:
    """The engine that "auto" means for this problem."""
    return next(name for name, engine in ENGINES.items() if engine.refuses(problem) is None)


def reasons_to_refuse(problem: Problem) -> dict[str, str | None]:
    """For every engine, why it cannot run this problem, or None if it can."""
    return {name: engine.refuses(problem) for name, engine in ENGINES.items()}


@contextmanager
def observe() -> Iterator[list[str]]:
    """Collect the name of every engine that runs inside the `with` block, in order."""
    seen: list[str] = []
    _observers.append(seen)
    try:
        yield seen
    finally:
        _observers.remove(seen)
