"""A `torch.autograd.Function` in a step: its value, with the gradient that its `backward` computes.

`backward` is run once on an example gradient, and recorded as the step is. In the graph a node "custom" passes the
value on, and its derivative is what was recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from recurra.compiler.frontend.graph import Graph, Node
from recurra.compiler.frontend.values import Value


def own_gradient(
    graph: Graph,
    tensor: Tensor,
    forward: Value,
    known: Mapping[tuple[int, int], Tensor],
    example: Callable[[str, Tensor], Tensor],
    value: Callable[[Tensor], Value],
) -> Node | str:
    """The value of what a function returned, or why it has none.

    Args:
        tensor: the result, and `forward` its value without gradient.
        known: tensors by the operation, and the number of its result, that autograd knows them by.
        example: makes a leaf of that name, like a tensor.
        value: gives the value of a tensor.
    """
    fn: Any = tensor.grad_fn
    if not isinstance(forward, Node):
        return "with complex results"
    if len(fn._input_metadata) > 1:
        return "with several results"
    sources = [None if edge is None else _source(edge, number, known) for edge, number in fn.next_functions]
    if any(t is None and edge is not None for t, (edge, _) in zip(sources, fn.next_functions, strict=True)):
        return "that writes in place"
    name = f"custom.{forward.number}"
    pulled = fn.apply(example(name, tensor))
    pulled = pulled if isinstance(pulled, tuple | list) else (pulled,)
    pairs = [(t, g) for t, g in zip(sources, pulled, strict=False) if t is not None and g is not None]
    nodes = [(value(t), value(g)) for t, g in pairs]
    if not all(isinstance(node, Node) for pair in nodes for node in pair):
        return "with complex arguments"
    seed = graph.input(name, forward.shape)
    return graph.custom(forward, [(a, graph.sum_to(g, a.shape)) for a, g in nodes], seed)


def _source(edge: Any, number: int, known: Mapping[tuple[int, int], Tensor]) -> Tensor | None:
    """The tensor that a gradient goes to."""
    return edge.variable if hasattr(edge, "variable") else known.get((id(edge), number))
