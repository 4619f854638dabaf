"""The gate in front of whatever takes the address of a tensor: may it, in the context of this call?

Inside of transforms of `torch.func` and of forward-mode differentiation a tensor stands for something else than its
memory. The reference loop, which is made of PyTorch's operations alone, runs there.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch._C._functorch import TransformType, get_interpreter_stack, peek_interpreter_stack
from torch.autograd import forward_ad

from recurra.compiler.targets import host

PLAIN = (Tensor, torch.nn.Parameter)
"""Types whose tensors are what they say."""
KNOWN = {TransformType.Grad: "grad", TransformType.Vmap: "vmap"}
"""Transforms that the compiled loop's operator has rules for."""
NAMES = KNOWN | {TransformType.Jvp: "jvp", TransformType.Functionalize: "functionalize"}


def hindrance(tensors: Iterable[Tensor]) -> str | None:
    """Why kernels cannot compute with these tensors here, or None. What they do can be differentiated once, by
    autograd or by `torch.func.grad`, and mapped by `torch.func.vmap`."""
    if peek_interpreter_stack() is not None and (reason := _transformed()):
        return reason
    if not host.has_half():
        tensors = list(tensors)
        if any(t.dtype is torch.float16 for t in tensors):
            return "this processor does not convert float16: use bfloat16 or float32"
    if is_forward() and any(forward_ad.unpack_dual(t).tangent is not None for t in tensors):
        return "it has no derivatives in forward mode"
    return None


def _transformed() -> str | None:
    kinds = [interpreter.key() for interpreter in get_interpreter_stack() or ()]
    unknown = next((kind for kind in kinds if kind not in KNOWN), None)
    if unknown is not None:
        return f"it cannot run inside torch.func.{NAMES[unknown]}"
    if kinds.count(TransformType.Grad) > 1:
        return "it cannot run inside torch.func.grad of torch.func.grad: it can be differentiated once"
    return None


def is_transformed() -> bool:
    """Whether any transform of `torch.func` is under way."""
    return peek_interpreter_stack() is not None


def is_watched() -> bool:
    """Whether somebody has to see every operation: a compiler, a tracer, a mode."""
    return bool(
        torch.compiler.is_compiling()
        or torch._C._len_torch_dispatch_stack()
        or torch._C._len_torch_function_stack()
        or torch._C._get_tracing_state()
    )


def is_forward() -> bool:
    """Whether derivatives are taken in forward mode."""
    return forward_ad._current_level >= 0


def hidden(tensors: Iterable[Tensor]) -> str | None:
    """Why nobody can look at numbers here, as some engines do on the way, or None."""
    if is_transformed():
        return "it looks at numbers on the way, which torch.func hides"
    if any(t.is_meta or is_fake(t) for t in tensors):
        return "it looks at numbers on the way, and these tensors have shapes only"
    return None


def without_autocast(device: torch.device) -> AbstractContextManager:
    """Where types stay what they are, whatever autocast makes of products around; it knows nothing of some devices.

    Nothing where it is off: an exported program would have a part of its own for it.
    """
    kind = device.type
    on = torch.amp.autocast_mode.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.autocast(kind, enabled=False) if on else nullcontext()


def is_fake(tensor: Tensor) -> bool:
    """Whether a tensor has a shape and no numbers."""
    fake = sys.modules.get("torch._subclasses.fake_tensor")
    return fake is not None and isinstance(tensor, fake.FakeTensor)


def is_mapped(tensor: Tensor) -> bool:
    """Whether a tensor stands for one row of many, over which `torch.func.vmap` maps."""
    while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        if torch._C._functorch.is_batchedtensor(tensor):
            return True
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return False


def is_plain(tensor: Tensor) -> bool:
    """Whether a tensor is memory of the CPU that can be read as it lies there."""
    return (
        type(tensor) in PLAIN
        and tensor.device.type == "cpu"
        and tensor.layout is torch.strided
        and not (tensor.is_neg() or tensor.is_conj())
    )
