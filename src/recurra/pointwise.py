"""Norms and activations whose derivatives PyTorch puts together, on the CPU, from many operations: here from few."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional


def rms_norm(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last axis, in the type of x; weight as long as it, or None for 1."""
    if weight is not None and weight.dtype != x.dtype:
        wide = torch.promote_types(x.dtype, weight.dtype)
        return rms_norm(x.to(wide), weight.to(wide), eps).to(x.dtype)
    given = (x,) if weight is None else (x, weight)
    if _only_backpropagated(*given) and (weight is None or weight.shape == x.shape[-1:]):
        return _RMSNorm.apply(x, weight, eps)
    return functional.rms_norm(x, x.shape[-1:], weight, eps)


def relu_squared(x: Tensor) -> Tensor:
    """max(x, 0)^2."""
    if _only_backpropagated(x):
        return _ReLUSquared.apply(x)
    return torch.relu(x).square()


class RMSNorm(nn.Module):
    """x / rms(x) * weight."""

    def __init__(self, width: int, eps: float):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """x [..., width] to the same."""
        return rms_norm(x, self.weight, self.eps)


class RMSNormFromOne(nn.Module):
    """x / rms(x) * (1 + weight): near its start a weight keeps digits that it would lose around one."""

    def __init__(self, width: int, eps: float):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """x [..., width] to the same."""
        dtype = torch.promote_types(x.dtype, torch.float32)
        return rms_norm(x.to(dtype), 1 + self.weight.to(dtype), self.eps).to(x.dtype)


class Dropout(nn.Dropout):
    """A `torch.nn.Dropout` that draws 16 bits for a number, where PyTorch's takes longer over its draws than a block
    over all else but its products of matrices. So p is met to the nearest 1/65,536. Where that would be felt, near 0
    and 1, and in place, and under what traces or transforms, it is PyTorch's own."""

    def forward(self, input: Tensor) -> Tensor:
        """input [...] to the same, each number zero with probability p and otherwise divided by 1 - p."""
        close = 2**-10 <= self.p <= 1 - 2**-10
        if not (self.training and close and not self.inplace and _only_backpropagated(input, half=True)):
            return super().forward(input)
        words = torch.empty(-(-input.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        drawn = words.view(torch.int16)[: input.numel()].view(input.shape)
        dropped = round(self.p * 2**16)
        kept = (drawn >= dropped - 2**15).to(input.dtype)
        return input * kept.mul_(2**16 / (2**16 - dropped))


def _only_backpropagated(x: Tensor, *others: Tensor, half: bool = False) -> bool:
    """Whether plain backpropagation is all that is asked for, on the CPU; of half types only if they will do."""
    if not torch.is_grad_enabled() or torch.compiler.is_compiling() or not x.numel():
        return False
    if torch._C._functorch.peek_interpreter_stack() is not None or forward_ad._current_level >= 0:
        return False
    given = (x, *others)
    alike = all(type(t) in (Tensor, nn.Parameter) and t.device.type == "cpu" and t.dtype == x.dtype for t in given)
    fits = x.dtype in (torch.float32, torch.float64) or (half and x.dtype in (torch.bfloat16, torch.float16))
    return alike and fits and any(t.requires_grad for t in given)


class _ReLUSquared(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.relu(x).square_()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        # Of plain operations, so that it can be differentiated once more.
        return torch.relu(ctx.saved_tensors[0]).mul(grads[0]).mul_(2)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
        mean_square = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1])
        scale = mean_square.add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        ctx.eps = eps
        y = x * scale
        return y if weight is None else y.mul_(weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (grad,), (x, weight, scale), (of_x, of_weight, _) = grads, ctx.saved_tensors, ctx.needs_input_grad
        if torch.is_grad_enabled():
            return *_differentiable(x, weight, ctx.eps, grad), None
        width = x.shape[-1]
        dx = dweight = None
        if of_x:
            # A layer norm whose mean is zero, but for what its derivative takes off because the mean depends on x.
            zero, mask = torch.zeros_like(scale), [True, False, False]
            dx = torch.ops.aten.native_layer_norm_backward(grad, x, [width], zero, scale, weight, None, mask)[0]
            taken = grad.sum(-1) if weight is None else torch.mv(grad.reshape(-1, width), weight)
            dx = dx.add_(taken.view_as(scale) * (scale / width))
        if of_weight:
            # The layer norm's own would add the rows one after another.
            dweight = (grad * x).mul_(scale).reshape(-1, width).sum(0)
        return dx, dweight, None


def _differentiable(x: Tensor, weight: Tensor | None, eps: float, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of x and weight where those are to be differentiated once more."""
    # Of other tensors than the caller's, whose hooks are called with what comes out here.
    x, weight = x.view_as(x), None if weight is None else weight.view_as(weight)
    y = functional.rms_norm(x, x.shape[-1:], weight, eps)
    given = [t for t in (x, weight) if t is not None and t.requires_grad]
    found = iter(torch.autograd.grad(y, given, grad, create_graph=True))
    of_x = next(found) if x.requires_grad else None
    return of_x, next(found, None)
