"""What a plan is made from as text, and back: what an exported program carries, so that any process can make the plan.

The graph is read by the methods that built it, each of which checks what it is given.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Callable, Mapping
from typing import Any

from recurra.compiler.frontend.graph import POINTWISE, REDUCTIONS, Graph, Node
from recurra.compiler.frontend.values import Leaf
from recurra.compiler.planning.plan import Origin

FORMAT = 1
"""Raised whenever older text would be read as something else."""
MOST_BYTES = 1 << 26
"""Of a text that is read."""


def write(origin: Origin, call: Mapping[str, Any]) -> str:
    """An origin, and plain data that says how its plan is called, as text."""
    numbers: dict[Node, int] = {}
    nodes: list[list] = []
    for node in origin.outputs.values():
        _write_node(node, numbers, nodes)
    facts = {
        "format": FORMAT,
        "nodes": nodes,
        "outputs": {name: numbers[node] for name, node in origin.outputs.items()},
        "leaves": [
            [leaf.name, leaf.shape, leaf.per_time, leaf.per_lane, leaf.scalar] for leaf in origin.leaves.values()
        ],
        "origin": [origin.channel, origin.lanes, origin.storage, sorted(origin.needs)],
        "call": dict(call),
    }
    return base64.b85encode(zlib.compress(json.dumps(facts, separators=(",", ":")).encode())).decode()


def read(text: str) -> tuple[Origin, dict[str, Any]]:
    """The inverse of `write`. Raises ValueError, of any text that `write` did not make."""
    try:
        unpacking = zlib.decompressobj()
        facts = json.loads(unpacking.decompress(base64.b85decode(text), MOST_BYTES))
        if facts["format"] != FORMAT:
            raise ValueError(f"it is of format {facts['format']}, this is Recurra with format {FORMAT}")
        graph, made = Graph(), []
        for op, args, shape, attr, is_bool in facts["nodes"]:
            made.append(_read_node(graph, op, [made[i] for i in args], tuple(shape), _from_plain(attr, made), is_bool))
        leaves = [Leaf(name, tuple(shape), *rest) for name, shape, *rest in facts["leaves"]]
        channel, lanes, storage, needs = facts["origin"]
        outputs = {name: made[i] for name, i in facts["outputs"].items()}
        named = {leaf.name: leaf for leaf in leaves}
        return Origin(graph, outputs, named, channel, lanes, storage, frozenset(needs)), facts["call"]
    except (KeyError, IndexError, TypeError, AttributeError, RecursionError, zlib.error) as error:
        raise ValueError(f"it is not a plan as text: {error}") from error


def _write_node(node: Node, numbers: dict[Node, int], nodes: list[list]) -> None:
    """Add a node after all that it needs, the gradient that it may bring included."""
    stack = [node]
    while stack:
        node = stack[-1]
        needed = [n for n in (*node.args, *_nodes_in(node.attr)) if n not in numbers]
        if needed:
            stack.extend(needed)
            continue
        stack.pop()
        if node not in numbers:
            args = [numbers[arg] for arg in node.args]
            nodes.append([node.op, args, node.shape, _as_plain(node.attr, numbers), node.is_bool])
            numbers[node] = len(nodes) - 1


def _nodes_in(attr: Any) -> list[Node]:
    if isinstance(attr, Node):
        return [attr]
    return [node for part in attr for node in _nodes_in(part)] if isinstance(attr, tuple) else []


def _as_plain(attr: Any, numbers: Mapping[Node, int]) -> Any:
    """An attribute as JSON has it: tuples as lists, nodes by their numbers."""
    if isinstance(attr, Node):
        return {"node": numbers[attr]}
    return [_as_plain(part, numbers) for part in attr] if isinstance(attr, tuple) else attr


def _from_plain(attr: Any, made: list[Node]) -> Any:
    if isinstance(attr, dict):
        return made[attr["node"]]
    return tuple(_from_plain(part, made) for part in attr) if isinstance(attr, list) else attr


def _read_node(graph: Graph, op: str, args: list[Node], shape: tuple[int, ...], attr: Any, is_bool: bool) -> Node:
    """A node by the method of `Graph` that makes its kind."""
    if op in POINTWISE:
        return graph.pointwise(op, *args)
    if op in REDUCTIONS:
        return graph.reduce(op, *args, attr)
    ways: dict[str, Callable[[], Node]] = {
        "input": lambda: graph.input(attr, shape, is_bool),
        "constant": lambda: graph.constant(float(attr)),
        "reshape": lambda: graph.reshape(*args, shape),
        "expand": lambda: graph.expand(*args, shape),
        "permute": lambda: graph.permute(*args, attr),
        "slice": lambda: graph.slice(*args, attr, shape),
        "assemble": lambda: graph.assemble(args, attr, shape),
        "matvec": lambda: graph.matvec(*args),
        "custom": lambda: graph.custom(args[0], list(zip(args[1:], attr[1], strict=True)), attr[0]),
    }
    if op not in ways:
        raise ValueError(f"{op!r} is not an operation")
    return ways[op]()
