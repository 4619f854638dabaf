"""Which engine runs a problem, and a way to see which one did."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from recurra.compiler.frontend.structure import Structure
from recurra.engines import compiled, convolution, gate, loop, scan
from recurra.engines.chunkwise import engine as chunkwise
from recurra.engines.newton import engine as newton
from recurra.engines.rates import Estimate
from recurra.engines.replay import engine as replay
from recurra.engines.traced import traced_step
from recurra.engines.unseen import unseen
from recurra.errors import EngineRefused, InputError
from recurra.options import shown
from recurra.problem import Problem, Rollout

ENGINES = {
    "compiled": compiled,
    "loop": loop,
    "scan": scan,
    "convolution": convolution,
    "newton": newton,
    "chunkwise": chunkwise,
    "replay": replay,
}
"""Every engine by its public name: a module with `refuses(problem) -> reason or None`, `run(problem)` and
`estimate(problem)`, what a run is expected to take."""

SHORT = 512
"""Time steps below which "auto" does not weigh engines against each other."""
SLOW = {"replay": "replaying the step in PyTorch's operations", "loop": "running the slow reference loop"}
"""What runs where nothing else can, in the words of a warning."""
LARGE = 1 << 20
"""Time steps times lanes from which on memory is checked beforehand."""

_observers: list[list[str]] = []


@unseen
def run(problem: Problem, engine: str) -> Rollout:
    """Run `problem` on the engine named, or for "auto" on the one that `choose` picks.

    Raises InputError for an unknown name and EngineRefused, with the reason, if the engine named cannot run it.
    """
    name = choose(problem) if engine == "auto" else engine
    if not isinstance(name, str) or name not in ENGINES:
        raise InputError(f"engine is {shown(engine)}; expected 'auto' or one of {', '.join(map(repr, ENGINES))}")
    if engine != "auto" and (reason := ENGINES[name].refuses(problem)):
        raise EngineRefused(f"engine {name!r} cannot run this recurrence: {reason}")
    if engine not in ("auto", "compiled", "loop", "replay") and problem.batch * problem.time * problem.lanes > LARGE:
        _check_memory(problem, name)
    note(name)
    # Steps and states keep their type whatever autocast makes of the products around them.
    with gate.without_autocast(problem.device):
        return ENGINES[name].run(problem)


def note(engine: str) -> None:
    """Tell whoever observes that this engine runs."""
    for seen in _observers:
        seen.append(engine)


def _check_memory(problem: Problem, name: str) -> None:
    needed, free = ENGINES[name].estimate(problem).bytes, room(problem.device)
    if needed > free:
        raise EngineRefused(
            f"engine {name!r} would need about {needed / 2**30:.1f} GiB for B={problem.batch}, T={problem.time}, "
            f"{problem.lanes} lanes; {free / 2**30:.1f} GiB are free: run fewer sequences at once, or engine='auto'"
        )


def choose(problem: Problem) -> str:
    """The engine that "auto" means for this problem: the one expected to take least, by `estimates`.

    Short sequences go to the compiled loop without asking. Where the step cannot be compiled on the CPU it is replayed,
    or run by the reference loop, and that is said once, as a warning. Raises EngineRefused if not even that can.
    """
    reason = compiled.refuses(problem)
    if reason is None and problem.time < SHORT:
        return "compiled"
    free, names = room(problem.device), set(ENGINES)
    # What is compiled is not worth recording; and what is replayed is quicker than what is mapped at every time step.
    names -= {"replay", "loop"} if reason is None else {"loop"} if replay.refuses(problem) is None else {"replay"}
    expected = estimates(problem, names)
    fitting = {name: e.seconds for name, e in expected.items() if isinstance(e, Estimate) and e.bytes < free}
    if not fitting:
        raise EngineRefused(f"no engine can run this recurrence: {loop.refuses(problem)}")
    best = min(fitting, key=lambda name: fitting[name])
    if best in SLOW and reason is not None and compiled.runs_on(problem.device) and reason not in _warned:
        _warned.add(reason)
        warnings.warn(f"{SLOW[best]}, since the step cannot be compiled: {reason}", stacklevel=2)
    return best


def estimates(problem: Problem, names: Collection[str] = ()) -> dict[str, Estimate | str]:
    """For every engine, or those named, what it is expected to take, or why it cannot run."""
    found: dict[str, Estimate | str] = {}
    for name, engine in ENGINES.items():
        if names and name not in names:
            continue
        reason = engine.refuses(problem)
        found[name] = engine.estimate(problem) if reason is None else reason
    return found


class Explained(dict[str, Any]):
    """`structure`, `engine` and what is `expected` of each, as plain data; printed, a line for each engine."""

    def __str__(self) -> str:
        quickest = sorted(self["expected"].items(), key=lambda item: item[1].get("milliseconds", math.inf))
        lines = [f"  {name}: {_said(expected)}" for name, expected in quickest]
        return "\n".join([f"auto picks {self['engine']}; expected forward:", *lines])


def _said(expected: Mapping[str, Any]) -> str:
    if "milliseconds" in expected:
        milliseconds = expected["milliseconds"]
        return f"{milliseconds:.2g} ms" if milliseconds < 10 else f"{milliseconds:.0f} ms"
    return expected.get("runs") or f"cannot run it: {expected['refuses']}"


def explain(problem: Problem) -> Explained:
    """The structure, the engine "auto" picks, and what every engine is expected to take."""
    expected = {
        name: {"refuses": e} if isinstance(e, str) else {"milliseconds": 1e3 * e.seconds, "bytes": e.bytes}
        for name, e in estimates(problem).items()
    }
    step = traced_step(problem)
    structure = step if isinstance(step, str) else str(step.structure)
    return Explained(structure=structure, engine=choose(problem), expected=expected)


def structure_of(problem: Problem) -> Structure:
    """The structure of a problem's step. Raises InputError if it cannot be traced."""
    step = traced_step(problem)
    if isinstance(step, str):
        raise InputError(f"the structure cannot be found out: {step}")
    return step.structure


def room(device: torch.device) -> int:
    """Bytes of memory that are free."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return sys.maxsize


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
