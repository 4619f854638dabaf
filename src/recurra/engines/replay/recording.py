"""From a problem to what is replayed: recorded once per kind of step, of inputs, and number of sequences."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from recurra.compiler.frontend.clean import clean
from recurra.compiler.frontend.leaving import Leaving
from recurra.compiler.frontend.prepared import Origin, Weight
from recurra.compiler.frontend.trace import Untraceable
from recurra.engines.loop import FORBIDDEN, forbidden
from recurra.engines.mapping import Mappable, OfTheirOwn
from recurra.engines.replay.clean import flat
from recurra.engines.replay.layout import Layout
from recurra.engines.replay.record import Functions, Recorder
from recurra.engines.replay.write import Loop, function
from recurra.engines.traced import computed_type, example, kind_of, like_weight, lock
from recurra.errors import one_line
from recurra.problem import Problem, cast

MOST = 64
"""Recordings that are remembered after the layers they were made for are gone, for others that are alike."""


@dataclass(frozen=True)
class Replay:
    """A step that can be run again. Leaves are named by their kind: "state.h", "input.x", "weight.W", "constant.0"."""

    once: Callable[..., tuple[Tensor, ...]]
    """From leaves that stay the same to what time steps read of them."""
    each: Loop
    """All time steps; fixed are the leaves that stay the same, and the results of `once`."""
    changing: tuple[str, ...]
    """Names of the leaves that change in time: states first, then inputs, and what else the step writes to."""
    still: tuple[str, ...]
    constants: Mapping[str, Tensor]
    operations: int
    """How many there are in a time step."""


_recorded: OrderedDict[Hashable, Replay | str] = OrderedDict()


def replay_of(problem: Problem) -> Replay | str:
    """What is replayed for a problem, or why there is nothing."""
    reading = problem.step.reading
    kind = ("replay", kind_of(problem), problem.batch)
    found = reading.found.get(kind)
    if found is None:
        key = (reading.key, kind)
        with lock:
            found = _shared(key, problem)
            if key in _recorded:  # a mistake may be one of these numbers only
                reading.found[kind] = found
    return found


def _shared(key: Hashable, problem: Problem) -> Replay | str:
    """A recording made for another layer like this one, or a new one."""
    if key not in _recorded:
        try:
            _recorded[key] = _recording(problem)
        except Untraceable as error:
            _recorded[key] = str(error)
        except Exception as error:
            if any(word in str(error) for word in (*FORBIDDEN, "vmap", "Batching rule")):
                return f"step {forbidden(error)}"
            # Its own mistake, which it makes on the reference loop as well.
            return f"step raises {type(error).__name__}: {one_line(error)}"
        if len(_recorded) > MOST:
            _recorded.popitem(last=False)
    _recorded.move_to_end(key)
    return _recorded[key]


def _recording(problem: Problem) -> Replay:
    try:
        return _record(problem)
    except torch.linalg.LinAlgError:
        return _record(problem, real=True)
    except RuntimeError as error:
        if "inplace" not in str(error):
            raise
        return _record(problem, copies=True)


def _record(problem: Problem, copies: bool = False, real: bool = False) -> Replay:
    """Run the mapped step once on examples, and make of what is seen two functions.

    Args:
        copies: give every lane its own copy of the tensors that the step makes.
        real: run it on the problem's own numbers, of the first sequence; some matrices cannot be factorised.
    """
    layout, recorder = Layout(problem), Recorder(problem.step.weights)
    with clean():
        leaves = _examples(problem, layout, real)
        for name, tensor in leaves.items():
            recorder.leaf(name, tensor)
        states, inputs, weights = (_of_kind(kind, leaves) for kind in ("state", "input", "weight"))
        everywhere = layout.everywhere(problem)
        recorder.constant("constant.everywhere", everywhere)
        step = problem.step.bind(weights)

        def one(states: tuple[Tensor, ...], inputs: dict[str, Tensor], everywhere: Tensor) -> Any:
            with OfTheirOwn(everywhere) if copies else nullcontext(), Mappable():
                return step(states, inputs)

        with Leaving(), Functions(recorder), recorder:
            after, y = layout.mapped(one, problem.inputs)(tuple(states.values()), inputs, everywhere)
        results = tuple(map(recorder.origin, (*after, y)))
        own = [f"state.{name}" for name in states]
        over_time = {f"input.{name}" for name, entry in problem.inputs.items() if entry.per_time}
        steps = flat(recorder, results, over_time.union(own))
        moving = [*own, *(name for name in steps.leaves if name in over_time | steps.written and name not in own)]
        still = [name for name in steps.leaves if name not in moving]
        fixed: list[Origin] = [*map(Weight, still), *steps.kept]
        written = [name in steps.written for name in moving]
        return Replay(
            once=function(steps.fixed, recorder, list(map(Weight, still)), steps.kept),
            each=Loop(steps.moving, recorder, list(map(Weight, moving)), fixed, steps.results, written),
            changing=tuple(moving),
            still=tuple(still),
            constants=recorder.constants,
            operations=len(steps.moving),
        )


def _of_kind(kind: str, leaves: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(f"{kind}."): t for name, t in leaves.items() if name.startswith(f"{kind}.")}


def _examples(problem: Problem, layout: Layout, real: bool) -> dict[str, Tensor]:
    """Leaves like those of the problem at one time step, which take gradients as they may."""
    rows, computed = max(problem.batch, 1), problem.compute_dtype
    found: dict[str, Tensor] = {}
    for name, t in problem.state.items():
        one = t[0] if real and len(t) else example(t.shape[2:], t.dtype)
        found[f"state.{name}"] = layout.state(one.expand(rows, *t.shape[1:]))
    for name, entry in problem.inputs.items():
        shape = entry.tensor.shape[2 * entry.per_time :]
        one = example(shape[entry.per_lane :], computed_type(entry.tensor.dtype, computed)).expand(shape)
        if real and entry.tensor.numel():
            one = cast(entry.tensor[0, 0] if entry.per_time else entry.tensor, computed)
        like = replace(entry, tensor=one.expand(rows, 1, *shape) if entry.per_time else one)
        found[f"input.{name}"] = layout.over_time(like)[0] if entry.per_time else layout.constant(like)
    for name, t in problem.step.weights.items():
        found[f"weight.{name}"] = cast(t, computed) if real else like_weight(t, computed_type(t.dtype, computed))
    return {name: _leaf(t.to(problem.device)) for name, t in found.items()}


def _leaf(tensor: Tensor) -> Tensor:
    own = tensor.detach().clone(memory_format=torch.contiguous_format)
    return own.requires_grad_().clone() if own.is_floating_point() or own.is_complex() else own
