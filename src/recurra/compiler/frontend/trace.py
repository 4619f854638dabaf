"""From `step`, as plain PyTorch, to a graph: run it once on one lane and write down every operation it does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from recurra.compiler.frontend.bounds import Counting
from recurra.compiler.frontend.clean import clean
from recurra.compiler.frontend.graph import Graph, Node
from recurra.compiler.frontend.leaving import Leaving
from recurra.compiler.frontend.lowering import real
from recurra.compiler.frontend.positions import Positions
from recurra.compiler.frontend.prepared import Prepared
from recurra.compiler.frontend.recorder import Recorder
from recurra.compiler.frontend.refusal import Untraceable, where
from recurra.compiler.frontend.values import Value

__all__ = ["Traced", "Untraceable", "trace"]


@dataclass(frozen=True)
class Traced:
    """A step as a graph."""

    graph: Graph
    inputs: dict[str, Value]
    """Every leaf by name: states, step inputs, weights, and what is computed from weights alone."""
    states: dict[str, Value]
    """The new states."""
    y: Value | tuple[Value, ...]
    lines: dict[Node, str]
    """Where in the user's file each node was written, "file:line"."""
    prepared: Prepared
    """How the leaves that are computed from weights alone come about."""
    custom: bool
    """Whether a part of the step brings a gradient of its own (`torch.autograd.Function`)."""
    counting: Counting | None = None
    """Up to where whole numbers in its states and inputs may go, if there are any."""


def trace(
    step: Callable[..., tuple[tuple[Tensor, ...], Tensor]],
    states: Mapping[str, Tensor],
    inputs: Mapping[str, Tensor],
    weights: Mapping[str, Tensor],
    met: Mapping[str, Tensor] | None = None,
    trains: bool = True,
) -> Traced:
    """Run `step(states, inputs, weights)` once, in a context of its own, and record it.

    Args:
        step: takes a tuple of states, a dict of inputs and a dict of weights; returns (new states, output). The output
            may be a tuple.
        states, inputs, weights: one lane's worth of example values, by name.
        met: further tensors by name, which step meets where they lie.
        trains: whether many time steps will run, and be differentiated: what depends on weights alone is then computed
            before the first of them, and what stops gradients is looked for. Else the graph is just what step does.

    Raises:
        Untraceable: an operation without a rule, or control flow that depends on values.
    """
    with clean():
        try:
            return _recorded(Recorder(met or {}, trains), step, states, inputs, weights)
        except RuntimeError as error:
            if "does not support automatic differentiation" not in str(error):
                raise
            # The graph of some complex operations has a derivative where PyTorch has none.
            return _recorded(Recorder(met or {}, trains, differentiates=False), step, states, inputs, weights)


def _recorded(
    recorder: Recorder,
    step: Callable[..., tuple[tuple[Tensor, ...], Tensor]],
    states: Mapping[str, Tensor],
    inputs: Mapping[str, Tensor],
    weights: Mapping[str, Tensor],
) -> Traced:
    examples = {
        kind: {name: recorder.example(f"{kind}.{name}", value, kind) for name, value in group.items()}
        for kind, group in (("state", states), ("input", inputs), ("weight", weights))
    }
    # Leaving sees calls first, so that it can tell the step's from those of the library.
    with Positions(lambda said: Untraceable(said + where())), Leaving(), recorder:
        try:
            after, y = step(tuple(examples["state"].values()), examples["input"], examples["weight"])
        except Exception as error:
            if type(error).__module__.startswith("torch._dynamo") or "HigherOrderOperator" in str(error):
                raise Untraceable("step uses torch.cond or the like: decide by torch.where") from error
            raise
    if recorder.refusal is not None:
        raise Untraceable(recorder.refusal)
    for tensor in y if isinstance(y, tuple) else (y,):
        if not (tensor.is_floating_point() or tensor.is_complex()):
            raise Untraceable(f"step returns {str(tensor.dtype)[6:]} as its output: use y.to(h.dtype)")
    counting = recorder.counting(dict(zip(states, after, strict=True)))
    new = {name: recorder.value(tensor) for name, tensor in zip(states, after, strict=True)}
    new = {name: real(recorder.graph, v) if isinstance(v, Node) and v.is_bool else v for name, v in new.items()}
    result = tuple(map(recorder.value, y)) if isinstance(y, tuple) else recorder.value(y)
    return Traced(
        recorder.graph, recorder.leaves, new, result, recorder.lines, recorder.prepared(), recorder.custom, counting
    )
