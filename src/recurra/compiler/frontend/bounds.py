"""How large a value may become: whether whole numbers stay where floating point holds every one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from recurra.compiler.frontend.graph import COMPARE, LOGIC, VIEWS, Node, topological

AT_MOST_ONE = {"sign", "sigmoid", "tanh", "sin", "cos", "erf"} | COMPARE | LOGIC
AS_LARGE = {"neg", "abs", "copy", "stop", "slope", "trunc", "max"} | VIEWS
BOUNDS: dict[str, Callable[[Node, list[float]], float]] = {
    "constant": lambda node, _: abs(float(node.attr)),
    "table": lambda node, _: max(map(abs, node.attr.values)),
    "where": lambda _, args: max(args[1:]),
    "maximum": lambda _, args: max(args),
    "minimum": lambda _, args: max(args),
    "assemble": lambda _, args: max(args),
    "add": lambda _, args: sum(args),
    "sub": lambda _, args: sum(args),
    "mul": lambda _, args: _times(*args),
    "fmod": lambda _, args: min(args),
    "sum": lambda node, args: _times(node.args[0].size / node.size, args[0]),
    "matvec": lambda node, args: _times(node.args[1].size, _times(*args)),
    "floor": lambda _, args: args[0] + 1,
    "ceil": lambda _, args: args[0] + 1,
    "round": lambda _, args: args[0] + 1,
}
"""Operation -> what its size may be at most, given those of its arguments."""


def _times(a: float, b: float) -> float:
    return 0.0 if 0.0 in (a, b) else a * b


def largest(node: Node, leaves: Mapping[str, float]) -> float:
    """The largest size a value may have; infinite where that is not known, as of leaves that are not named here."""
    known: dict[Node, float] = {}
    for each in topological([node]):
        args = [known[arg] for arg in each.args]
        if each.op in AT_MOST_ONE or each.is_bool:
            known[each] = 1.0
        elif each.op in AS_LARGE:
            known[each] = args[0]
        elif each.op == "input":
            known[each] = leaves.get(each.attr, math.inf)
        else:
            known[each] = BOUNDS[each.op](each, args) if each.op in BOUNDS else math.inf
    return known[node]
