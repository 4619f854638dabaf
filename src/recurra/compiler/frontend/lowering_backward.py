"""What PyTorch calls where a step takes a gradient of its own (`torch.func.grad`), in terms of the graph's operations.

Most are the derivatives of the rules that there are for the operations themselves; see `lowering`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from recurra.compiler.frontend.derive import vector_jacobian
from recurra.compiler.frontend.graph import Graph, Node
from recurra.compiler.frontend.lowering import LOWERING, add, mul, real, rule


def _pulled(name: str) -> Callable[..., Node]:
    """The gradient of an operation of x and some numbers, in the order of PyTorch's arguments."""

    def backward(g: Graph, d: Any, x: Node, *numbers: Any, **others: Any) -> Node:
        value = LOWERING[name](g, x, *numbers, **others)
        return vector_jacobian(g, {value: g.expand(real(g, d), value.shape)}, [x])[0]

    return backward


for _name in ("gelu", "hardshrink", "hardsigmoid", "hardswish", "hardtanh", "logit", "silu", "softplus", "softshrink"):
    rule(f"{_name}_backward")(_pulled(_name))


@rule("elu_backward")
def _elu_backward(g: Graph, d: Node, alpha: float, scale: float, input_scale: float, is_result: bool, x: Node) -> Node:
    if is_result:
        raise ValueError("of a result, not of an argument")
    return _pulled("elu")(g, d, x, alpha, scale, input_scale)


@rule("leaky_relu_backward")
def _leaky_relu_backward(g: Graph, d: Node, x: Node, slope: float, _is_result: bool) -> Node:
    return _pulled("leaky_relu")(g, d, x, slope)


@rule("log_sigmoid_backward")
def _log_sigmoid_backward(g: Graph, d: Node, x: Node, _kept: Node) -> Node:
    return g.pointwise("mul", d, g.pointwise("sigmoid", g.pointwise("neg", x)))


@rule("threshold_backward")
def _threshold_backward(g: Graph, d: Node, x: Node, threshold: float) -> Node:
    return g.pointwise("where", g.pointwise("le", x, g.constant(float(threshold))), g.constant(0.0), d)


@rule("tanh_backward")
def _tanh_backward(g: Graph, d: Node, y: Node) -> Node:
    slope = add(g, 1.0, mul(g, y, y), op="sub")
    return g.given(mul(g, d, slope), (d, slope), (y, mul(g, mul(g, y, -2.0), d)))


@rule("sigmoid_backward")
def _sigmoid_backward(g: Graph, d: Node, y: Node) -> Node:
    rest = add(g, 1.0, y, op="sub")
    steep = mul(g, d, add(g, 1.0, mul(g, 2.0, y), op="sub"))
    return g.given(mul(g, mul(g, d, rest), y), (d, mul(g, rest, y)), (y, steep))
