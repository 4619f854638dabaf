"""What every operation of a graph means, in PyTorch: the definition that generated code is tested against."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from recurra.compiler.frontend.graph import Node, topological

MEANING: dict[str, Callable[..., Tensor]] = {
    "neg": torch.neg, "exp": torch.exp, "log": torch.log, "log1p": torch.log1p, "expm1": torch.expm1,
    "sqrt": torch.sqrt, "sigmoid": torch.sigmoid, "tanh": torch.tanh, "erf": torch.erf, "sin": torch.sin,
    "cos": torch.cos, "abs": torch.abs, "sign": torch.sign, "floor": torch.floor, "copy": torch.clone,
    "softplus": lambda x: torch.logaddexp(x, torch.zeros_like(x)),
    "ceil": torch.ceil, "trunc": torch.trunc, "round": torch.round, "log2": torch.log2, "erfc": torch.erfc,
    "tan": torch.tan, "asin": torch.asin, "acos": torch.acos, "atan": torch.atan, "sinh": torch.sinh,
    "cosh": torch.cosh, "asinh": torch.asinh, "acosh": torch.acosh, "atanh": torch.atanh, "fmod": torch.fmod,
    "atan2": torch.atan2,
    "add": torch.add, "sub": torch.sub, "mul": torch.mul, "div": torch.div,
    "hypot": torch.hypot, "exp2": torch.exp2,
    "maximum": torch.maximum, "minimum": torch.minimum, "lt": torch.lt, "le": torch.le, "eq": torch.eq,
    "and": torch.logical_and, "or": torch.logical_or, "not": torch.logical_not, "where": torch.where,
    "matvec": torch.mv, "custom": lambda value, *_: value, "stop": torch.detach,
    "slope": lambda value, x, slope: _Slope.apply(value, x, slope),
}  # fmt: skip


class _Slope(torch.autograd.Function):
    """A value to whose derivative by x a slope is added."""

    generate_vmap_rule = True

    @staticmethod
    def forward(value: Tensor, x: Tensor, slope: Tensor) -> Tensor:  # noqa: ARG004
        # By way of x, so that mapping over x maps the result, too, where the value is the same for all.
        return torch.where(torch.ones_like(x, dtype=torch.bool), value, x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:  # noqa: ARG004
        _, x, slope = inputs
        ctx.save_for_backward(slope)
        ctx.shape = x.shape

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        return grad, (grad * ctx.saved_tensors[0]).sum_to_size(ctx.shape), None


def evaluate(outputs: Iterable[Node], inputs: Mapping[str, Tensor], dtype: torch.dtype) -> list[Tensor]:
    """The value of each output node, given the leaves by name. One lane; combine with `torch.func.vmap` for more."""
    values: dict[Node, Tensor] = {}
    outputs = list(outputs)
    for node in topological(outputs):
        values[node] = _value(node, [values[arg] for arg in node.args], inputs, dtype)
    return [values[node] for node in outputs]


def _value(node: Node, args: list[Tensor], inputs: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
    device = next((t.device for t in inputs.values()), None)
    rules: dict[str, Callable[[], Any]] = {
        "input": lambda: inputs[node.attr],
        "table": lambda: torch.tensor(node.attr.values, dtype=dtype, device=device).view(node.shape),
        "constant": lambda: torch.tensor(float(node.attr), dtype=dtype, device=device),
        "reshape": lambda: args[0].reshape(node.shape),
        "permute": lambda: args[0].permute(node.attr),
        "expand": lambda: args[0].expand(node.shape),
        "slice": lambda: args[0][_block(node.attr, node.shape)],
        "sum": lambda: args[0].sum(node.attr),
        "max": lambda: args[0].amax(node.attr),
        "assemble": lambda: _assemble(node, args),
        "pow": lambda: torch.pow(args[0], _exponent(node.args[1], args[1])),
    }
    return rules[node.op]() if node.op in rules else MEANING[node.op](*args)


def _exponent(node: Node, value: Tensor) -> Tensor | float:
    """A known exponent as the number it is, which is not always one of the dtype."""
    while node.op in ("expand", "reshape"):
        node = node.args[0]
    return float(node.attr) if node.op == "constant" else value


def _assemble(node: Node, parts: list[Tensor]) -> Tensor:
    whole = parts[0].new_zeros(node.shape)
    for part, at in zip(parts, node.attr, strict=True):
        pads = [n for i, m in reversed(list(enumerate(part.shape))) for n in (at[i], node.shape[i] - at[i] - m)]
        whole = whole + torch.nn.functional.pad(part, pads)
    return whole


def _block(starts: tuple[int, ...], sizes: tuple[int, ...]) -> tuple[slice, ...]:
    return tuple(slice(a, a + n) for a, n in zip(starts, sizes, strict=True))
