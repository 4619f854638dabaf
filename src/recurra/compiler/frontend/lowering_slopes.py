"""Operations to which PyTorch gives derivatives of their own, in terms of the graph's; see `lowering`.

What follows from the value alone would be another number at kinks, at the ends of ranges, at zeros of roots, and where
the branch that is not taken overflows. So value and slope are written apart, the slope as PyTorch has it.
"""

from __future__ import annotations

import math
from typing import Any

from recurra.compiler.frontend.graph import Graph, Node
from recurra.compiler.frontend.lowering import LOWERING, add, divide, mul, real, rule
from recurra.compiler.frontend.values import Pair, Value


def _choose(g: Graph, condition: Node, yes: Any, no: Any) -> Node:
    return g.pointwise("where", condition, real(g, yes), real(g, no))


def _less(g: Graph, a: Any, b: Any) -> Node:
    return g.pointwise("lt", real(g, a), real(g, b))


def _at_most(g: Graph, a: Any, b: Any) -> Node:
    return g.pointwise("le", real(g, a), real(g, b))


def _all(g: Graph, *conditions: Node | None) -> Node:
    """Whether every condition holds; None is no condition."""
    first, *others = (condition for condition in conditions if condition is not None)
    for other in others:
        first = g.pointwise("and", first, other)
    return first


def _is_nan(g: Graph, x: Node) -> Node:
    return g.pointwise("not", g.pointwise("eq", x, x))


# --- kinks ------------------------------------------------------------------------------------------------------------
def _held(g: Graph, x: Node, low: Any, high: Any) -> Node:
    """x within numbers, with NaN staying NaN."""
    x = x if low is None else _choose(g, _less(g, x, low), low, x)
    return x if high is None else _choose(g, _less(g, high, x), high, x)


@rule("clamp", "clamp_min")
def _clamp(g: Graph, x: Any, min: Any = None, max: Any = None) -> Node:
    """x between bounds: numbers, or tensors, whose NaN counts and which have a derivative."""
    x, low, high = real(g, x), *(None if bound is None else real(g, bound) for bound in (min, max))
    value, slopes = _held(g, x, low, high), []
    above_low = None if low is None else _at_most(g, low, x)
    below_high = None if high is None else _at_most(g, x, high)
    slopes.append((x, _all(g, above_low, below_high)))
    for bound in (low, high):
        if bound is not None and g.value(bound) is None:
            value = _choose(g, _is_nan(g, bound), bound, value)
    if low is not None and g.value(low) is None:
        slopes.append((low, _all(g, _less(g, x, low), None if high is None else _less(g, low, high))))
    if high is not None and g.value(high) is None:
        crossed = None if low is None else _less(g, high, low)
        above = _less(g, high, x)
        slopes.append((high, above if crossed is None else g.pointwise("or", above, crossed)))
    return g.given(value, *((of, _choose(g, where, 1.0, 0.0)) for of, where in slopes))


LOWERING["clamp_max"] = lambda g, x, max: _clamp(g, x, None, max)


@rule("hardtanh")
def _hardtanh(g: Graph, x: Node, min: float = -1.0, max: float = 1.0) -> Node:
    outside = g.pointwise("or", _at_most(g, x, min), _at_most(g, max, x))
    return g.given(_held(g, x, min, max), (x, _choose(g, outside, 0.0, 1.0)))


SIXTH = 0.1666666716337204
"""The slope of PyTorch's hardsigmoid: a sixth of float32, in float64 too."""


@rule("hardsigmoid")
def _hardsigmoid(g: Graph, x: Node) -> Node:
    value = mul(g, _held(g, add(g, x, 3.0), 0.0, 6.0), 1 / 6)
    inside = _all(g, _less(g, -3.0, x), _less(g, x, 3.0))
    return g.given(value, (x, _choose(g, inside, SIXTH, 0.0)))


@rule("hardswish")
def _hardswish(g: Graph, x: Node) -> Node:
    value = mul(g, mul(g, x, _held(g, add(g, x, 3.0), 0.0, 6.0)), 1 / 6)
    within = _choose(g, _less(g, x, 3.0), add(g, g.pointwise("div", x, g.constant(3.0)), 0.5), 1.0)
    return g.given(value, (x, _choose(g, _at_most(g, x, -3.0), 0.0, within)))


@rule("hardshrink")
def _hardshrink(g: Graph, x: Node, lambd: float = 0.5) -> Node:
    return _choose(g, _all(g, _at_most(g, -lambd, x), _at_most(g, x, lambd)), 0.0, x)


@rule("softshrink")
def _softshrink(g: Graph, x: Node, lambd: float = 0.5) -> Node:
    value = _choose(g, _less(g, x, -lambd), add(g, x, lambd), _choose(g, _less(g, lambd, x), add(g, x, -lambd), 0.0))
    flat = _all(g, _at_most(g, -lambd, x), _at_most(g, x, lambd))
    return g.given(_choose(g, _is_nan(g, x), x, value), (x, _choose(g, flat, 0.0, 1.0)))


# --- branches that overflow -------------------------------------------------------------------------------------------
@rule("_prelu_kernel")
def _prelu(g: Graph, x: Node, weight: Node) -> Node:
    above = _less(g, 0.0, x)
    value = _choose(g, above, x, mul(g, weight, x))
    return g.given(value, (x, _choose(g, above, 1.0, weight)), (weight, _choose(g, above, 0.0, x)))


@rule("elu")
def _elu(g: Graph, x: Node, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> Node:
    scaled, negative = mul(g, x, input_scale), _at_most(g, x, 0.0)
    value = _choose(g, negative, mul(g, alpha * scale, g.pointwise("expm1", scaled)), mul(g, x, scale))
    falling = mul(g, input_scale * alpha * scale, g.pointwise("exp", scaled))
    # Its own slope, for a step that takes this one, is zero at zero and above.
    falling = g.given(falling, (x, _choose(g, _less(g, x, 0.0), mul(g, input_scale, falling), 0.0)))
    return g.given(value, (x, _choose(g, negative, falling, scale)))


rule("celu")(lambda g, x, alpha=1.0: _elu(g, x, alpha, 1.0, 1 / alpha))


# --- ends of ranges ---------------------------------------------------------------------------------------------------
@rule("logit")
def _logit(g: Graph, x: Node, eps: float | None = None) -> Node:
    low, high = (0.0, 1.0) if eps is None else (eps, 1 - eps)
    held = x if eps is None else _held(g, x, low, high)
    value = g.pointwise("log", g.pointwise("div", held, add(g, 1.0, held, op="sub")))
    steep = g.pointwise("div", g.constant(1.0), mul(g, x, add(g, 1.0, x, op="sub")))
    outside = g.pointwise("or", _less(g, x, low), _less(g, high, x))
    return g.given(value, (x, _choose(g, outside, math.nan if eps is None else 0.0, steep)))


@rule("special_entr")
def _entr(g: Graph, x: Node) -> Node:
    log = g.pointwise("log", x)
    value = _choose(g, _less(g, x, 0.0), -math.inf, g.pointwise("neg", mul(g, x, log)))
    value = _choose(g, g.pointwise("eq", x, g.constant(0.0)), 0.0, value)
    return g.given(value, (x, g.pointwise("neg", add(g, log, 1.0))))


def _times_log(g: Graph, a: Any, b: Any, log: str, above: Any) -> Node:
    """a times a logarithm of b, 0 where a is; `above` is how far b is above the end of the logarithm's range."""
    a, b = real(g, a), real(g, b)
    grown, nothing, left = g.pointwise(log, b), g.pointwise("eq", a, g.constant(0.0)), above(b)
    value = _choose(g, _is_nan(g, b), b, _choose(g, nothing, 0.0, mul(g, a, grown)))
    slope = _choose(g, _all(g, nothing, _at_most(g, left, 0.0)), 0.0, grown)
    return g.given(value, (a, slope), (b, g.pointwise("div", a, left)))


rule("xlogy")(lambda g, a, b: _times_log(g, a, b, "log", lambda b: b))
rule("special_xlog1py")(lambda g, a, b: _times_log(g, a, b, "log1p", lambda b: add(g, b, 1.0)))


@rule("sinc")
def _sinc(g: Graph, x: Node) -> Node:
    angle, square = mul(g, x, math.pi), mul(g, mul(g, x, x), math.pi)
    sine, cosine = g.pointwise("sin", angle), g.pointwise("cos", angle)
    value = _choose(g, g.pointwise("eq", x, g.constant(0.0)), 1.0, g.pointwise("div", sine, angle))
    slope = g.pointwise("div", g.pointwise("sub", mul(g, angle, cosine), sine), square)
    return g.given(value, (x, _choose(g, g.pointwise("eq", square, g.constant(0.0)), 0.0, slope)))


# --- a slope with more digits, or for products that overflow ----------------------------------------------------------
@rule("gelu")
def _gelu(g: Graph, x: Node, approximate: str = "none") -> Value:
    if approximate == "tanh":
        inner = mul(g, math.sqrt(2 / math.pi), add(g, x, mul(g, 0.044715, mul(g, x, mul(g, x, x)))))
        return mul(g, mul(g, 0.5, x), add(g, 1.0, g.pointwise("tanh", inner)))
    share = mul(g, 0.5, add(g, 1.0, g.pointwise("erf", mul(g, x, math.sqrt(0.5)))))
    density = mul(g, 1 / math.sqrt(2 * math.pi), g.pointwise("exp", mul(g, -0.5, mul(g, x, x))))
    return g.given(mul(g, x, share), (x, add(g, share, mul(g, x, density))))


@rule("addcdiv")
def _addcdiv(g: Graph, x: Value, a: Value, b: Value, value: float = 1) -> Value:
    scaled = mul(g, a, value) if value != 1 else a
    total = add(g, x, divide(g, scaled, b))
    if any(isinstance(part, Pair) for part in (x, a, b)):
        return total
    of_b = g.pointwise("neg", divide(g, scaled, mul(g, b, b)))
    return g.given(total, (x, g.constant(1.0)), (a, divide(g, value, b)), (b, of_b))


# --- losses -----------------------------------------------------------------------------------------------------------
def _reduced(g: Graph, losses: Node, reduction: int) -> Node:
    """As PyTorch numbers it: every loss, their mean, or their sum."""
    if reduction == 0:
        return losses
    total = g.reduce("sum", losses, range(len(losses.shape)))
    return total if reduction == 2 else g.pointwise("div", total, g.constant(float(losses.size)))


def _loss(g: Graph, x: Node, target: Node, value: Node, slope: Node) -> Node:
    return g.given(value, (x, slope), (target, g.pointwise("neg", slope)))


@rule("huber_loss")
def _huber_loss(g: Graph, x: Node, target: Node, reduction: int = 1, delta: float = 1.0) -> Node:
    gap = g.pointwise("sub", x, target)
    size = g.pointwise("abs", gap)
    near = mul(g, mul(g, 0.5, gap), gap)
    value = _choose(g, _at_most(g, size, delta), near, mul(g, delta, add(g, size, 0.5 * delta, op="sub")))
    slope = _choose(g, _less(g, gap, -delta), -delta, _choose(g, _less(g, delta, gap), delta, gap))
    return _reduced(g, _loss(g, x, target, value, slope), reduction)


@rule("smooth_l1_loss")
def _smooth_l1_loss(g: Graph, x: Node, target: Node, reduction: int = 1, beta: float = 1.0) -> Node:
    gap = g.pointwise("sub", x, target)
    size, inner = g.pointwise("abs", gap), divide(g, gap, beta)
    near = divide(g, mul(g, mul(g, 0.5, size), size), beta)
    value = _choose(g, _less(g, size, beta), near, add(g, size, 0.5 * beta, op="sub"))
    slope = _choose(g, _at_most(g, gap, -beta), -1.0, _choose(g, _at_most(g, beta, gap), 1.0, inner))
    return _reduced(g, _loss(g, x, target, value, slope), reduction)
