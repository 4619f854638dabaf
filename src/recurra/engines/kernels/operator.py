"""The operator `recurra::rollout` as PyTorch sees it: a plan's kernels with gradient, shapes and a rule for vmap."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import is_legacy_batchedtensor

from recurra.compiler.planning.plan import Plan
from recurra.engines.gate import PLAIN, is_transformed
from recurra.engines.kernels.call import Call, call_of, called
from recurra.engines.kernels.launch import kernel_of
from recurra.engines.kernels.run import admitted, backward, batch_of, forward, results_of
from recurra.errors import RecurraError
from recurra.problem import Problem


def rollout(plan: Plan, tensors: Mapping[str, Tensor], problem: Problem, save: bool, cut: bool) -> dict[str, Tensor]:
    """Run a plan. Gives y and `last.<state>`, in the layout of the kernels.

    Args:
        save: keep what the gradient needs.
        cut: a sequence may be cut in time where there are fewer sequences than threads.
    """
    names = tuple(name for name in tensors if not name.startswith("start.") or problem.resets is not None)
    call = call_of(plan, names, problem, save, cut)
    given = [tensors[name] for name in names]
    facts = problem.resets, problem.lengths, problem.time, call
    if _watched(given):
        results = torch.ops.recurra.rollout(given, *facts[:3], call.text)
    elif is_transformed() or (torch.is_grad_enabled() and any(t.requires_grad for t in given)):
        results = _Rollout.apply(*facts, *given)
    else:
        results = forward(given, *facts)
    wanted = [*plan.outputs, *(f"last.{name}" for name in plan.states)]
    return dict(zip(wanted, results, strict=False))


def _watched(tensors: Sequence[Tensor]) -> bool:
    """Whether anybody has to see the call as an operator: a tracer, a mode, a subclass of Tensor."""
    if torch._C._len_torch_dispatch_stack() or torch.compiler.is_compiling():
        return True
    return any(type(t) not in PLAIN for t in tensors)


def sources(plan: Plan, problem: Problem) -> dict[str, str]:
    """The files that hold the generated source of both directions; made if they are not there."""
    names = tuple(plan.leaves) + tuple(f"state.{name}" for name in plan.states)
    call = call_of(plan, names, problem, True, False)
    return {"forward": str(kernel_of(call, False).source), "reverse": str(kernel_of(call, True).source)}


# --- registration -------------------------------------------------------------------------------------------------
_library = torch.library.Library("recurra", "FRAGMENT")
_library.define("rollout(Tensor[] tensors, Tensor? resets, Tensor? lengths, SymInt time, str call) -> Tensor[]")
_library.define(
    "rollout_backward(Tensor[] grads, Tensor[] saved, Tensor[] tensors, Tensor? resets, Tensor? lengths, SymInt time, "
    "str call) -> Tensor[]"
)


def _recorded_forward(tensors, resets, lengths, time, text):  # type: ignore[no-untyped-def]
    call = called(text)
    return forward(admitted(call, tensors, resets, lengths, time), resets, lengths, time, call)


def _recorded_backward(grads, saved, tensors, resets, lengths, time, text):  # type: ignore[no-untyped-def]
    call = called(text)
    return backward(grads, saved, admitted(call, tensors, resets, lengths, time), resets, lengths, time, call)


_library.impl("rollout", _recorded_forward, "CPU")
_library.impl("rollout_backward", _recorded_backward, "CPU")


def _fake_forward(tensors, _resets, _lengths, time, text):  # type: ignore[no-untyped-def]
    call = called(text)
    return list(results_of(call, tensors[0], batch_of(call, tensors), time, False).values())


def _fake_backward(_grads, _saved, tensors, *_rest):  # type: ignore[no-untyped-def]
    return [torch.empty_like(t, memory_format=torch.contiguous_format) for t in tensors]


torch.library.register_fake("recurra::rollout", _fake_forward, lib=_library)
torch.library.register_fake("recurra::rollout_backward", _fake_backward, lib=_library)


def _setup(ctx, inputs, output):  # type: ignore[no-untyped-def]
    tensors, resets, lengths, time, call = inputs
    ctx.recorded = isinstance(call, str)
    # Kept with the graph that needs it.
    ctx.call = call = called(call) if ctx.recorded else call
    first = len(call.plan.outputs) + len(call.plan.states)
    ctx.facts = (time, len(tensors), len(output) - first, resets is not None, lengths is not None)
    ctx.shapes = [(o.shape, o.dtype) for o in output[:first]]
    optional = [t for t in (resets, lengths) if t is not None]
    ctx.save_for_backward(*tensors, *output[first:], *optional)
    # What is stored has no gradient: it is as large as the states of many time steps, and would be filled with zeros.
    ctx.set_materialize_grads(False)


def _gradient(ctx, grads):  # type: ignore[no-untyped-def]
    time, given, kept, has_resets, has_lengths = ctx.facts
    values = list(ctx.saved_tensors)
    tensors, saved, optional = values[:given], values[given : given + kept], values[given + kept :]
    resets = optional.pop(0) if has_resets else None
    lengths = optional.pop(0) if has_lengths else None
    full = [
        torch.zeros(shape, dtype=dtype) if grad is None else grad
        for grad, (shape, dtype) in zip(grads, ctx.shapes, strict=False)
    ]
    facts = resets, lengths, time, ctx.call
    if ctx.recorded and not _watched(tensors):
        tensors = admitted(ctx.call, tensors, resets, lengths, time)
    if any(map(is_legacy_batchedtensor, full)):
        back = of_many(full, lambda one: backward(one, saved, tensors, *facts))
    elif _watched([*full, *tensors]):
        back = torch.ops.recurra.rollout_backward(full, saved, tensors, *facts[:3], ctx.call.text)
    elif is_transformed() or torch.is_grad_enabled():
        # A function of its own, which can be asked for its gradient: it refuses, see `_second_gradient`.
        back = _RolloutBackward.apply(*facts, len(full), len(saved), *full, *saved, *tensors)
    else:
        back = backward(full, saved, tensors, *facts)
    return [g if t.is_floating_point() else None for g, t in zip(back, tensors, strict=True)], None, None, None, None


def of_many(grads: Sequence[Tensor], run: Callable[[list[Tensor]], list[Tensor]]) -> list[Tensor]:
    """Many gradients at once, as `torch.autograd.grad(..., is_grads_batched=True)` asks for, one after another."""
    level = torch._C._vmapmode_increment_nesting() - 1
    torch._C._vmapmode_decrement_nesting()
    number = next(torch._remove_batch_dim(g, level, 1, 0).shape[0] for g in grads if is_legacy_batchedtensor(g))
    plain = [torch._remove_batch_dim(g, level, number, 0) for g in grads]
    each = [run([g[i] for g in plain]) for i in range(number)]
    return [torch._add_batch_dim(torch.stack(t), 0, level) for t in zip(*each, strict=True)]


class _Rollout(torch.autograd.Function):
    """The operator where only autograd and torch.func have to know of it, which takes less time."""

    @staticmethod
    def forward(*args: Any) -> tuple[Tensor, ...]:
        resets, lengths, time, call, *tensors = args
        return tuple(forward(tensors, resets, lengths, time, call))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, ...]) -> None:
        _setup(ctx, (inputs[4:], *inputs[:4]), output)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple:
        back, *others = _gradient(ctx, grads)
        return *others, *back

    @staticmethod
    def vmap(info: Any, in_dims: tuple, *args: Any) -> tuple:
        """Sequences of the mapped axis are further rows of the batch, if all read the same weights."""
        call = args[3]
        rows = (True, True, False, False, *(_has_rows(call, name) for name in call.names))
        return _mapped(_Rollout.apply, info, in_dims, args, rows)


class _RolloutBackward(torch.autograd.Function):
    """The way back, as a function that can be mapped; takes numbers of gradients and of what was saved, then these."""

    @staticmethod
    def forward(*args: Any) -> tuple[Tensor, ...]:
        resets, lengths, time, call, grads, saved, *tensors = args
        parts = tensors[:grads], tensors[grads : grads + saved], tensors[grads + saved :]
        return tuple(backward(*parts, resets, lengths, time, call))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, ...]) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple:
        _second_gradient(ctx, *grads)
        return ()

    @staticmethod
    def vmap(info: Any, in_dims: tuple, *args: Any) -> tuple:
        """Every sequence of the mapped axis has gradients of its own for what all of them read."""
        call = args[3]
        own = [_has_rows(call, name) for name in call.names]
        rows = (True, True, False, False, False, False, *[all(own)] * (args[4] + args[5]), *own)
        return _mapped(_RolloutBackward.apply, info, in_dims, args, rows if all(own) else (False,) * len(args))


# PyTorch asks for the signature of `forward` at every call, and to find it out takes longer than to start a kernel.
for _function in (_Rollout, _RolloutBackward):
    _function.forward.__signature__ = inspect.signature(_function.forward)  # type: ignore[attr-defined]


def _has_rows(call: Call, name: str) -> bool:
    """Whether the first axis of an argument is the batch."""
    leaf = call.plan.leaves.get(name)
    return name.startswith("state.") or (leaf is not None and leaf.per_time)


def _mapped(run: Callable, info: Any, in_dims: tuple, args: tuple, rows: Sequence[bool]) -> tuple:
    """A function of tensors some of which have a further axis: by one call, where it can be joined with the batch, else
    by one call after another.

    Args:
        rows: whether the first axis of each argument is the batch.
    """
    number = info.batch_size
    if all(row or dim is None for row, dim in zip(rows, in_dims, strict=True)) and any(rows):
        joined = [_joined(a, d, number) if row else a for a, d, row in zip(args, in_dims, rows, strict=True)]
        results = tuple(t.unflatten(0, (number, -1)) if t.numel() else _split(t, number) for t in run(*joined))
    else:
        each = [
            run(*(a if d is None else a.select(d, i) for a, d in zip(args, in_dims, strict=True)))
            for i in range(number)
        ]
        results = tuple(map(torch.stack, zip(*each, strict=True)))
    return results, (0,) * len(results)


def _joined(tensor: Any, dim: int | None, number: int) -> Any:
    """With the mapped axis, which lies at `dim` or nowhere, before the batch as one with it."""
    if not isinstance(tensor, Tensor):
        return tensor
    whole = tensor.expand(number, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
    return whole.flatten(0, 1).contiguous()


def _split(tensor: Tensor, number: int) -> Tensor:
    """As `unflatten` where there are no elements to tell the size by."""
    return tensor.reshape(number, tensor.shape[0] // max(1, number), *tensor.shape[1:])


def _second_gradient(_ctx, *_grads):  # type: ignore[no-untyped-def]
    raise RecurraError(
        "a gradient of a gradient is asked for, and the compiled loop is differentiable once: call the layer with "
        'engine="loop"'
    )


torch.library.register_autograd("recurra::rollout", _gradient, setup_context=_setup, lib=_library)
torch.library.register_autograd("recurra::rollout_backward", _second_gradient, lib=_library)
