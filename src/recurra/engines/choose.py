"""Which engine runs a problem, and a way to see which one did."""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from recurra.engines import compiled, loop
from recurra.errors import EngineRefused, InputError
from recurra.problem import Problem, Rollout

ENGINES = {"compiled": compiled, "loop": loop}
"""Every engine by its public name: a module with `refuses(problem) -> reason or None` and `run(problem)`."""

_observers: list[list[str]] = []


def run(problem: Problem, engine: str) -> Rollout:
    """`run_eagerly`, out of sight of torch.compile: generated kernels are compiled already."""
    # Importing torch._dynamo takes a second; nobody who has not imported it is compiling.
    return (_hidden() if "torch._dynamo" in sys.modules else run_eagerly)(problem, engine)


# What torch.compiler.disable sets, without importing the compiler.
run._torchdynamo_disable = True  # type: ignore[attr-defined]


@functools.cache
def _hidden() -> Callable[[Problem, str], Rollout]:
    return torch.compiler.disable(run_eagerly)


def run_eagerly(problem: Problem, engine: str) -> Rollout:
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
    """The engine that "auto" means for this problem.

    On the CPU the compiled loop; elsewhere, and for a step that cannot be traced, the reference loop. The latter is
    said once, as a warning.
    """
    reason = compiled.refuses(problem)
    if reason is None:
        return "compiled"
    if reason not in _warned and compiled.runs_on(problem.device):
        _warned.add(reason)
        warnings.warn(f"running the slow reference loop, since the step cannot be compiled: {reason}", stacklevel=2)
    return "loop"


_warned: set[str] = set()


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
