"""How large a value may become: whether whole numbers stay where floating point holds every one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from recurra.compiler.frontend.graph import COMPARE, LOGIC, VIEWS, Node, topological

Ends = tuple[float, float]
"""The least and the greatest that a value may be."""

ANYTHING = (-math.inf, math.inf)
AT_MOST_ONE = {"sign", "sigmoid", "tanh", "sin", "cos", "erf"} | COMPARE | LOGIC
THE_SAME = {"copy", "stop", "slope", "trunc", "max"} | VIEWS
ENDS: dict[str, Callable[[Node, list[Ends]], Ends]] = {
    "constant": lambda node, _: (float(node.attr),) * 2,  # type: ignore[return-value]
    "table": lambda node, _: (min(node.attr.values), max(node.attr.values)),
    "where": lambda node, args: _chosen(node, *args[1:]),
    "maximum": lambda _, args: (max(a[0] for a in args), max(a[1] for a in args)),
    "minimum": lambda _, args: (min(a[0] for a in args), min(a[1] for a in args)),
    "assemble": lambda _, args: _any_of((0.0, 0.0), *args),
    "neg": lambda _, args: (-args[0][1], -args[0][0]),
    "abs": lambda _, args: (0.0, _size(args[0])),
    "add": lambda _, args: (sum(a[0] for a in args), sum(a[1] for a in args)),
    "sub": lambda _, args: (args[0][0] - args[1][1], args[0][1] - args[1][0]),
    "mul": lambda _, args: _times(*args),
    "div": lambda node, args: _times(args[0], _one_over(node.args[1])),
    "fmod": lambda _, args: _up_to(min(map(_size, args))),
    "sum": lambda node, args: _times((node.args[0].size / node.size,) * 2, args[0]),
    "matvec": lambda node, args: _up_to(node.args[1].size * _size(_times(*args))),
    "floor": lambda _, args: (args[0][0] - 1, args[0][1]),
    "ceil": lambda _, args: (args[0][0], args[0][1] + 1),
    "round": lambda _, args: (args[0][0] - 1, args[0][1] + 1),
}
"""Operation -> between what its value lies, given that of its arguments."""


def _size(ends: Ends) -> float:
    return max(map(abs, ends))


def _up_to(size: float) -> Ends:
    return -size, size


def _any_of(*ends: Ends) -> Ends:
    return min(low for low, _ in ends), max(high for _, high in ends)


def _times(a: Ends, b: Ends) -> Ends:
    corners = [0.0 if 0.0 in (x, y) else x * y for x in a for y in b]
    return min(corners), max(corners)


def _one_over(node: Node) -> Ends:
    if node.op != "constant" or not node.attr:
        return ANYTHING
    return (1 / float(node.attr),) * 2  # type: ignore[return-value]


def _chosen(node: Node, yes: Ends, no: Ends) -> Ends:
    """One of two values; where a value beyond a bound is replaced by the bound, no more than that."""
    condition, bound, other = node.args
    if condition.op == "lt" and bound.op == "constant":
        if condition.args == (bound, other):
            return min(no[0], yes[0]), min(no[1], yes[1])
        if condition.args == (other, bound):
            return max(no[0], yes[0]), max(no[1], yes[1])
    return _any_of(yes, no)


def largest(node: Node, leaves: Mapping[str, float]) -> float:
    """The largest size a value may have; infinite where that is not known, as of leaves that are not named here."""
    known: dict[Node, Ends] = {}
    for each in topological([node]):
        args = [known[arg] for arg in each.args]
        if each.op in AT_MOST_ONE or each.is_bool:
            known[each] = _up_to(1.0)
        elif each.op in THE_SAME:
            known[each] = args[0]
        elif each.op == "input":
            known[each] = _up_to(leaves.get(each.attr, math.inf))
        else:
            known[each] = ENDS[each.op](each, args) if each.op in ENDS else ANYTHING
    return _size(known[node])


@dataclass(frozen=True)
class Counting:
    """Up to where the whole numbers of a step may go, so that floating point holds every one it makes of them."""

    states: float
    inputs: float
    new: tuple[Node, ...]
    """Those of the new state."""
    leaves: tuple[str, ...]
    """Names of those of the old state, and of the inputs."""
    known: dict[float, float] = field(default_factory=dict)

    def growth(self, inputs: float) -> float:
        """By how much the largest of the state grows at most in one time step, where no input is larger than
        `inputs`; infinite if by a factor."""
        if inputs not in self.known:
            sizes = [0.0, *(4.0**i for i in range(math.ceil(math.log(self.states, 4)))), self.states]
            reached = [self._after(size, inputs) for size in sizes]
            by_factor = not reached[-1] - reached[-2] <= sizes[-1] - sizes[-2]
            grown = (after - before for after, before in zip(reached, sizes, strict=True))
            self.known[inputs] = math.inf if by_factor else max(0.0, *grown)
        return self.known[inputs]

    def _after(self, states: float, inputs: float) -> float:
        sizes = {name: states if name.startswith("state.") else inputs for name in self.leaves}
        return max((largest(node, sizes) for node in self.new), default=0.0)
