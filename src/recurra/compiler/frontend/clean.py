"""One context for tracing, whatever surrounds the call: nothing transforms, casts, records or intercepts operations."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch.autograd import forward_ad
from torch.overrides import _get_current_function_mode_stack, _pop_mode, _push_mode
from torch.utils._python_dispatch import _disable_current_modes


@contextmanager
def clean() -> Iterator[None]:
    """Gradients are on, since what a step detaches is seen by them."""
    with ExitStack() as stack:
        stack.enter_context(temporarily_clear_interpreter_stack())
        stack.enter_context(_disable_current_modes())
        stack.enter_context(_no_function_modes())
        stack.enter_context(forward_ad._set_fwd_grad_enabled(False))
        for device in ("cpu", "cuda"):
            stack.enter_context(torch.autocast(device, enabled=False))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        yield


@contextmanager
def _no_function_modes() -> Iterator[None]:
    modes = [_pop_mode() for _ in range(len(_get_current_function_mode_stack()))]
    try:
        yield
    finally:
        for mode in reversed(modes):
            _push_mode(mode)
