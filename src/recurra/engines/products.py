"""Products of float32 matrices by the fastest way of this machine, forward and back.

PyTorch's own products end in MKL, which keeps to narrow vectors on some processors; oneDNN, which lies in the same
PyTorch, does not, but takes longer to start. The gradient of a weight is a sum of outer products, for which oneDNN
would lay out its factors anew: a kernel of our own reads them as they lie. Which way is taken follows from the size of
a product and from the `Speeds` of the machine, and from nothing else, so that the same calls give the same bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import is_legacy_batchedtensor
from torch.nn import functional

from recurra.engines import rates
from recurra.engines.gate import PLAIN, is_forward, is_plain, is_transformed, is_watched
from recurra.engines.kernels.outer import sum_of_outer as compiled_outer
from recurra.engines.rates import Speeds

START = 2e-5
"""Seconds that oneDNN takes before it computes, more than PyTorch's own products do."""
OUTER_START = 5e-6
"""The same of our own kernel for sums of outer products."""
SMALLEST = 16
"""Below as many rows, inputs or outputs their tiles are mostly empty."""

_kept: ContextVar[Speeds | None] = ContextVar("speeds", default=None)


def speeds() -> Speeds:
    """Those that decide now: of `decided_by`, else those of the machine."""
    kept = _kept.get()
    if kept is not None:
        return kept
    current = rates.current()
    return Speeds(current.product, current.product_onednn)


@contextmanager
def decided_by(chosen: Speeds) -> Iterator[None]:
    """Within it these speeds decide, whatever is measured meanwhile: for work that is to end at the same bits."""
    before = _kept.set(chosen)
    try:
        yield
    finally:
        _kept.reset(before)


def has_onednn() -> bool:
    """Whether PyTorch was built with oneDNN, and nobody has turned it off."""
    return torch.backends.mkldnn.is_available() and torch._C._get_mkldnn_enabled()


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """As `torch.nn.functional.linear`: x [..., I], weight [O, I] and bias [O] to [..., O]; errors are PyTorch's."""
    if not torch.compiler.is_compiling() and _is_ours(x, weight, bias):
        if torch.is_grad_enabled():
            return _Linear.apply(x, weight, bias)
        return by_onednn(x, weight, bias)
    return functional.linear(x, weight, bias)


def sum_of_outer(left: Tensor, right: Tensor) -> Tensor:
    """left^T right, of [R, M] and [R, N] to [M, N]: the gradient of a weight from those of outputs and the inputs."""
    (rows, m), n = left.shape, right.shape[1]
    if not (_is_worth(rows, m, n, OUTER_START) and is_open(left, right)):
        return left.t().mm(right)
    return compiled_outer(*(t if t.stride(1) == 1 else t.contiguous() for t in (left, right)))


def sums_of_outer(left: Tensor, right: Tensor) -> Tensor:
    """`sum_of_outer` of every lane: of [R, L, M] and [R, L, N] to [L, M, N]."""
    (rows, lanes, m), n = left.shape, right.shape[2]
    if lanes and _is_worth(rows, m, n, OUTER_START):
        return torch.stack([sum_of_outer(left[:, lane], right[:, lane]) for lane in range(lanes)])
    return torch.bmm(left.permute(1, 2, 0), right.movedim(1, 0))


def is_open(*tensors: Tensor) -> bool:
    """Whether float32 numbers lie in plain memory, and nobody watches, differentiates or casts what is done to them
    but by autograd."""
    return (
        all(t.dtype is torch.float32 and is_plain(t) and not is_legacy_batchedtensor(t) for t in tensors)
        and has_onednn()
        and not (is_watched() or is_transformed() or is_forward() or torch.is_autocast_enabled("cpu"))
    )


def _is_worth(rows: int, m: int, n: int, start: float) -> bool:
    """Whether what is faster makes good for its start."""
    if min(rows, m, n) < SMALLEST:
        return False
    kept = _kept.get()
    gain = rates.current().gain if kept is None else kept.torch - kept.onednn
    return rows * m * n * gain > start


def _is_ours(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    if type(x) not in PLAIN or type(weight) not in PLAIN or x.dim() < 2 or weight.dim() != 2:
        return False
    outputs, inputs = weight.shape
    if x.shape[-1] != inputs or not inputs or not _is_worth(x.numel() // inputs, inputs, outputs, START):
        return False
    given = (x, weight) if bias is None else (x, weight, bias)
    return (
        (bias is None or (type(bias) in PLAIN and bias.shape == (outputs,)))
        and is_open(*given)
        and x.is_contiguous()
        and weight.is_contiguous()
    )


def by_onednn(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`linear` by oneDNN; the weight may lie in memory in either order."""
    return torch.ops.mkldnn._linear_pointwise.default(x, weight, bias, "none", [], "")


class _Linear(torch.autograd.Function):
    """`linear` by oneDNN, whose gradients are products of their own sizes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return by_onednn(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        to_x, to_weight, to_bias = ctx.needs_input_grad
        plain = torch.is_grad_enabled()  # the gradient is to be differentiated again, by PyTorch
        rows, given = (t.reshape(-1, t.shape[-1]) for t in (grad, x))
        return (
            (rows.mm(weight) if plain else _product(rows, weight)).view(x.shape) if to_x else None,
            (rows.t().mm(given) if plain else sum_of_outer(rows, given)) if to_weight else None,
            rows.sum(0) if to_bias else None,
        )


def _product(left: Tensor, right: Tensor) -> Tensor:
    """left right, of [R, M] and [M, N]."""
    (rows, m), n = left.shape, right.shape[1]
    if _is_worth(rows, m, n, START) and is_open(left, right):
        return by_onednn(left.contiguous(), right.t())
    return left.mm(right)
