"""What `vmap` does not do, does row by row, or differentiates wrongly, in terms of what it does right."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._C import _functorch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

_WARN: Callable[[bool], None] = _functorch._set_vmap_fallback_warning_enabled  # type: ignore[attr-defined]


class Mappable(TorchFunctionMode):
    """Inside of `vmap`, puts what it can do in place of what it cannot; without a word of what it does row by row."""

    def __enter__(self) -> Mappable:
        _WARN(False)
        return super().__enter__()

    def __exit__(self, *raised: Any) -> None:
        _WARN(True)
        super().__exit__(*raised)

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        rule = RULES.get(func)
        result = NotImplemented if rule is None else rule(*args, **kwargs)
        return func(*args, **kwargs) if result is NotImplemented else result


def mappable(step: Callable[..., Any]) -> Callable[..., Any]:
    """A step that `vmap` can map."""

    def call(*args: Any) -> Any:
        with Mappable():
            return step(*args)

    return call


def _gates(x: Tensor, h: Tensor, weights: tuple) -> tuple[Tensor, Tensor]:
    """What a cell computes of its input and of its state."""
    w_x, w_h, b_x, b_h = (*weights, None, None)[:4]
    return F.linear(x, w_x, b_x), F.linear(h, w_h, b_h)


def _cell(rule: Callable[..., Any]) -> Callable[..., Any]:
    """The rule of a cell, which PyTorch's modules give a batch of one."""

    def call(x: Tensor, state: Any, *weights: Any) -> Any:
        if x.dim() != 2 or len(x) != 1:
            return rule(x, state, *weights)
        own = tuple(s[0] for s in state) if isinstance(state, tuple | list) else state[0]
        after = rule(x[0], own, *weights)
        return tuple(s[None] for s in after) if isinstance(after, tuple) else after[None]

    return call


def _attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, dropout: float = 0.0,
               is_causal: bool = False, scale: float | None = None, **options: Any) -> Any:  # fmt: skip
    if mask is not None or dropout or is_causal or any(options.values()):
        return NotImplemented
    scores = q * (q.shape[-1] ** -0.5 if scale is None else scale) @ k.transpose(-2, -1)
    return torch.softmax(scores, -1) @ v


def _heads(*args: Any, need_weights: bool = True, is_causal: bool = False, **kwargs: Any) -> Any:
    """By products and a softmax, as it is done where the weights are asked for."""
    if is_causal:
        return NotImplemented
    y, weights = F.multi_head_attention_forward(*args, **(kwargs | {"need_weights": True}))
    return y, weights if need_weights else None


def _lstm(x: Tensor, state: tuple[Tensor, Tensor], *weights: Any) -> tuple[Tensor, Tensor]:
    i, f, g, o = sum(_gates(x, state[0], weights)).chunk(4, -1)  # type: ignore[union-attr]
    c = torch.sigmoid(f) * state[1] + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def _gru(x: Tensor, h: Tensor, *weights: Any) -> Tensor:
    from_x, from_h = (gates.chunk(3, -1) for gates in _gates(x, h, weights))
    r, z = (torch.sigmoid(a + b) for a, b in zip(from_x[:2], from_h[:2], strict=True))
    n = torch.tanh(from_x[2] + r * from_h[2])
    return n + z * (h - n)


def _rnn(activation: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    return lambda x, h, *weights: activation(sum(_gates(x, h, weights)))  # type: ignore[arg-type]


def _quantile(x: Tensor, q: Any, dim: int | None = None, keepdim: bool = False, interpolation: str = "linear") -> Any:
    if isinstance(q, Tensor) or interpolation != "linear" or not 0 <= q <= 1 or (dim is None and keepdim):
        return NotImplemented
    x, dim = (x.flatten(), 0) if dim is None else (x, dim)
    if not x.numel():
        return NotImplemented
    ordered, place = torch.sort(x, dim).values, q * (x.shape[dim] - 1)
    low, high = (ordered.select(dim, at) for at in (math.floor(place), math.ceil(place)))
    last = ordered.select(dim, -1)  # NaN comes last
    y = torch.where(torch.isnan(last), last, torch.lerp(low, high, place - math.floor(place)))
    return y.unsqueeze(dim) if keepdim else y


def _select_scatter(x: Tensor, src: Tensor, dim: int, index: int) -> Tensor:
    index = range(x.shape[dim])[index]
    after = x.narrow(dim, index + 1, x.shape[dim] - index - 1)
    return torch.cat([x.narrow(dim, 0, index), src.unsqueeze(dim), after], dim)


def _column_stack(tensors: Any) -> Tensor:
    return torch.cat([t.reshape(-1, 1) if t.dim() < 2 else t for t in tensors], 1)


def _set(x: Tensor, index: Any, value: Any) -> Any:
    """x[mask] = value, for one value."""
    is_mask = isinstance(index, Tensor) and index.dtype is torch.bool and index.dim() > 0
    if not is_mask or (isinstance(value, Tensor) and value.dim() > 0):
        return NotImplemented
    x.masked_fill_(index.view(*index.shape, *[1] * (x.dim() - index.dim())), value)
    return None


def _loss(loss: Callable[..., Tensor], each: Callable[..., Tensor]) -> Callable[..., Any]:
    """A loss that PyTorch mixes up between rows where not all that is mapped over reaches both arguments."""

    def call(*args: Any, **kwargs: Any) -> Any:
        given = inspect.signature(loss).bind(*args, **kwargs).arguments
        input, target, reduction = given.pop("input"), given.pop("target"), given.pop("reduction", "mean")
        if reduction not in ("mean", "sum", "none") or any(given.get(n) is not None for n in _RARE):
            return NotImplemented
        found = each(input - target, **{n: value for n, value in given.items() if n not in _RARE})
        return found.mean() if reduction == "mean" else found.sum() if reduction == "sum" else found

    return call


_RARE = ("size_average", "reduce", "weight")
"""What a loss is seldom given."""


def _huber(d: Tensor, delta: float = 1.0) -> Tensor:
    return _rounded(d, d.abs() > delta, 0.5, delta * (d.abs() - 0.5 * delta))


def _smooth_l1(d: Tensor, beta: float = 1.0) -> Tensor:
    return d.abs() if beta == 0 else _rounded(d, d.abs() >= beta, 0.5 / beta, d.abs() - 0.5 * beta)


def _rounded(d: Tensor, is_far: Tensor, factor: float, far: Tensor) -> Tensor:
    """A multiple of d^2 near zero, and where d is NaN; what is far is no part of it: infinities have their slope."""
    near = torch.where(is_far, 0, d)
    return torch.where(is_far, far, factor * near * near)


def _in_place(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda x, *args, **kwargs: x.copy_(function(x.clone(), *args, **kwargs))


RULES: dict[Any, Callable] = {
    torch.lstm_cell: _cell(_lstm),
    torch.gru_cell: _cell(_gru),
    torch.rnn_tanh_cell: _cell(_rnn(torch.tanh)),
    torch.rnn_relu_cell: _cell(_rnn(torch.relu)),
    F.scaled_dot_product_attention: _attention,
    F.multi_head_attention_forward: _heads,
    torch.quantile: _quantile,
    Tensor.quantile: _quantile,
    torch.bilinear: lambda a, b, weight, bias=None: (
        torch.einsum("...i,oij,...j->...o", a, weight, b) + (0 if bias is None else bias)
    ),
    torch.select_scatter: _select_scatter,
    Tensor.select_scatter: _select_scatter,
    torch.column_stack: _column_stack,
    F.mse_loss: _loss(F.mse_loss, torch.square),
    F.huber_loss: _loss(F.huber_loss, _huber),
    F.smooth_l1_loss: _loss(F.smooth_l1_loss, _smooth_l1),
    torch.chain_matmul: lambda *matrices: torch.linalg.multi_dot(matrices),
    Tensor.clamp_: _in_place(torch.clamp),
    Tensor.scatter_: _in_place(torch.scatter),
    Tensor.__setitem__: _set,
    Tensor.data.__get__: lambda x: x.detach(),  # type: ignore[attr-defined]
}
"""By what the user called; NotImplemented: as PyTorch does it."""

MADE = {torch.zeros, torch.ones, torch.full, torch.empty, torch.eye, torch.arange, torch.linspace, torch.tensor,
        torch.zeros_like, torch.ones_like, torch.full_like, torch.empty_like, Tensor.new_zeros, Tensor.new_ones,
        Tensor.new_full, Tensor.new_empty, Tensor.new_tensor}  # fmt: skip


class OfTheirOwn(TorchFunctionMode):
    """Gives every lane a copy of the tensors that a step makes, so that it may write its own numbers into them."""

    def __init__(self, everywhere: Tensor) -> None:
        """`everywhere` is one True for each lane of each sequence."""
        super().__init__()
        self._everywhere = everywhere

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        made = func(*args, **(kwargs or {}))
        return torch.where(self._everywhere, made, made) if func in MADE else made
