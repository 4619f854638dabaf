"""The operator `recurra::rollout`: a plan's kernels on real tensors, with its gradient and its shapes for tracers."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from recurra.compiler.codegen.arguments import Kind, gradient_outputs
from recurra.compiler.planning.plan import Plan
from recurra.engines.kernels import segments, threads
from recurra.engines.kernels.launch import (
    REAL,
    Call,
    blocks_of,
    kernel_of,
    launch,
    packed_matrices,
    pitch_of,
    vector_width,
)
from recurra.errors import RecurraError
from recurra.problem import Problem

CACHE_BYTES = 1024 * 1024
"""Bytes of states that one thread keeps while it goes back over a chunk of time steps."""


_lock = threading.Lock()
_calls: list[Call] = []
_numbers: dict[tuple, int] = {}


def rollout(plan: Plan, tensors: Mapping[str, Tensor], problem: Problem, save: bool, cut: bool) -> dict[str, Tensor]:
    """Run a plan. Gives y and `last.<state>`, in the layout of the kernels.

    Args:
        save: keep what the gradient needs.
        cut: a sequence may be cut in time where there are fewer sequences than threads.
    """
    names = tuple(name for name in tensors if not name.startswith("start.") or problem.resets is not None)
    number = _number(plan, names, problem, save, cut)
    given = [tensors[name] for name in names]
    facts = problem.resets, problem.lengths, problem.time, number
    if _watched(given):
        results = torch.ops.recurra.rollout(given, *facts)
    elif torch.is_grad_enabled() and any(t.requires_grad for t in given):
        results = _Rollout.apply(*facts, *given)
    else:
        results = _forward(given, *facts)
    wanted = [*plan.outputs, *(f"last.{name}" for name in plan.states)]
    return dict(zip(wanted, results, strict=False))


def _watched(tensors: Sequence[Tensor]) -> bool:
    """Whether anybody has to see the call as an operator: a tracer, a mode, a subclass of Tensor."""
    if torch._C._len_torch_dispatch_stack() or torch.compiler.is_compiling():
        return True
    return any(type(t) not in (Tensor, torch.nn.Parameter) for t in tensors)


def sources(plan: Plan, problem: Problem) -> dict[str, str]:
    """The files that hold the generated source of both directions; made if they are not there."""
    names = tuple(plan.leaves) + tuple(f"state.{name}" for name in plan.states)
    call = _calls[_number(plan, names, problem, True, False)]
    return {"forward": str(kernel_of(call, False).source), "reverse": str(kernel_of(call, True).source)}


def _number(plan: Plan, names: tuple[str, ...], problem: Problem, save: bool, cut: bool) -> int:
    """The number under which the operator finds this kind of call."""
    resets, lengths = problem.resets is not None, problem.lengths is not None
    key = (id(plan), names, save, resets, lengths, problem.batch if plan.products else 0, threads.count(), cut)
    with _lock:
        if key not in _numbers:
            width, pitch, rows = vector_width(plan), pitch_of(plan), _rows(plan, problem.batch, lengths)
            states = sum(math.prod(shape) for shape in (*plan.states.values(), *plan.recalled.values()))
            per_step = states * (pitch if plan.channel else 1) * (8 if plan.real == "double" else 4)
            chunk = max(4, min(64, 2 ** int(math.log2(max(1, CACHE_BYTES // per_step)))))
            chunk = 1 if plan.stores_every_state else chunk
            _calls.append(Call(plan, names, save, resets, lengths, width, rows, pitch, chunk, cut))
            _numbers[key] = len(_calls) - 1
        return _numbers[key]


def _rows(plan: Plan, batch: int, lengths: bool) -> int:
    """Sequences that share one reading of the recurrent matrices."""
    sums = any(output.kind in (Kind.PART_LANE, Kind.PART) for output in gradient_outputs(plan))
    if plan.channel or not plan.products or (lengths and sums):
        return 1
    tiles = -(-threads.count() // plan.lanes)
    return max(1, min(8, -(-batch // tiles)))


# --- shapes -------------------------------------------------------------------------------------------------------
def _shape(call: Call, kind: Kind, size: tuple[int, ...], batch: int, time: int, items: int, blocks: int) -> list[int]:
    """The shape of an argument of a kind, in the layout of the kernels."""
    lanes = call.plan.lanes
    inner = [*size, lanes] if call.plan.channel else [lanes, *size]
    tiles = batch if call.plan.channel else -(-batch // call.rows)
    parts = blocks if call.plan.channel else lanes
    return {
        Kind.TIME_LANE: [batch, time, *inner],
        Kind.BATCH_LANE: [batch, *inner],
        Kind.CHUNK: [batch, -(-time // call.chunk), *inner],
        Kind.PART_TIME: [parts, batch, time, *size],
        Kind.PART_LANE: [tiles, *inner],
        Kind.PART: [items, *size],
    }[kind]


def _results(call: Call, like: Tensor, batch: int, time: int, zero: bool) -> dict[str, Tensor]:
    """Memory for everything the forward kernel writes."""
    make = torch.zeros if zero else torch.empty
    plan, real = call.plan, REAL[call.plan.real]
    results = {}
    for name, (shape, scalar) in plan.outputs.items():
        full = _shape(call, Kind.TIME_LANE, shape, batch, time, 0, 0)
        results[name] = make(full, dtype=REAL[scalar], device=like.device)
    for name, shape in plan.states.items():
        full = _shape(call, Kind.BATCH_LANE, shape, batch, time, 0, 0)
        results[f"last.{name}"] = torch.empty(full, dtype=real, device=like.device)
    for name, size in call.stored:
        kind = Kind.CHUNK if name.startswith("stored.") else Kind.TIME_LANE
        full = _shape(call, kind, (size,), batch, time, 0, 0)
        results[name] = make(full, dtype=real, device=like.device)
    return results


def _context(call: Call, tensors: Sequence[Tensor], resets: Tensor | None, lengths: Tensor | None) -> dict[str, Tensor]:
    memory = dict(zip(call.names, tensors, strict=True))
    if resets is not None:
        memory["resets"] = resets.contiguous().view(torch.uint8)
    if lengths is not None:
        memory["lengths"] = lengths.contiguous()
    return memory


def _batch(call: Call, tensors: Sequence[Tensor]) -> int:
    return tensors[call.names.index(f"state.{next(iter(call.plan.states))}")].shape[0]


def _forward(
    tensors: Sequence[Tensor], resets: Tensor | None, lengths: Tensor | None, time: int, number: int
) -> list[Tensor]:
    call = _calls[number]
    batch = _batch(call, tensors)
    memory = _context(call, tensors, resets, lengths)
    results = _results(call, tensors[0], batch, time, lengths is not None)
    if batch * time == 0:
        for name in call.plan.states:
            results[f"last.{name}"].copy_(memory[f"state.{name}"])
        return list(results.values())
    memory |= results | packed_matrices(call, call.plan.forward, memory)
    cut = segments.cut(call, batch, time, threads.count())
    if cut:
        segments.run(partial(launch, call, False), call, memory, batch, cut)
    else:
        launch(call, False, memory, batch, time)
    if call.lengths and call.rows > 1:
        for name in call.plan.outputs:
            _clear_padding(results[name], lengths)
    return list(results.values())


def _clear_padding(t: Tensor, lengths: Tensor | None, batch_axis: int = 0) -> None:
    """Zero from each row's length on; time is the axis after the batch."""
    assert lengths is not None
    padding = torch.arange(t.shape[batch_axis + 1]) >= lengths[:, None]
    t.masked_fill_(padding.view(*padding.shape, *[1] * (t.dim() - batch_axis - 2)), 0)


def _gradients(call: Call, batch: int, time: int, zero: bool) -> dict[str, Tensor]:
    """Memory for everything the reverse kernel writes."""
    items, blocks, _ = blocks_of(call, batch, True) if batch else (0, 1, 1)
    real, gradients = REAL[call.plan.real], {}
    for output in gradient_outputs(call.plan):
        full = _shape(call, output.kind, output.shape, batch, time, items, blocks)
        make = torch.zeros if zero or output.kind in (Kind.PART_LANE, Kind.PART) else torch.empty
        gradients[output.name] = make(full, dtype=REAL[output.scalar])
    for name, shape in call.plan.states.items():
        gradients[f"first.{name}"] = torch.empty(_shape(call, Kind.BATCH_LANE, shape, batch, time, 0, 0), dtype=real)
        if call.resets:
            full = _shape(call, Kind.PART_LANE, shape, batch, time, 0, 0)
            gradients[f"start gradient.{name}"] = torch.zeros(full, dtype=real)
    return gradients


def _backward(
    grads: Sequence[Tensor], saved: Sequence[Tensor], tensors: Sequence[Tensor], resets: Tensor | None,
    lengths: Tensor | None, time: int, number: int,
) -> list[Tensor]:  # fmt: skip
    call = _calls[number]
    batch = _batch(call, tensors)
    names = [f"grad.{n}" for n in call.plan.outputs] + [f"adjoint.{n}" for n in call.plan.states]
    memory = _context(call, tensors, resets, lengths)
    memory |= {name: grad.contiguous() for name, grad in zip(names, grads, strict=True)}
    memory |= {name: value for (name, _), value in zip(call.stored, saved, strict=True)}
    gradients = _gradients(call, batch, time, batch * time == 0 or lengths is not None)
    if batch * time:
        memory |= packed_matrices(call, call.plan.reverse, memory)
        launch(call, True, memory | gradients, batch, time)
    else:
        for name in call.plan.states:
            gradients[f"first.{name}"].copy_(memory[f"adjoint.{name}"])
    if call.lengths and call.rows > 1:
        for output in gradient_outputs(call.plan):
            _clear_padding(gradients[output.name], lengths, int(output.kind is Kind.PART_TIME))
    gradients |= {name: memory[name] for name, _ in call.stored}
    return [_collected(call, name, gradients, t) for name, t in zip(call.names, tensors, strict=True)]


def _collected(call: Call, name: str, gradients: Mapping[str, Tensor], like: Tensor) -> Tensor:
    """The gradient of one argument of the operator from what the kernel wrote."""
    kind, own = name.split(".", 1)
    if kind == "state":
        return gradients[f"first.{own}"]
    if kind == "start":
        return gradients[f"start gradient.{own}"].sum(0)
    outers = [outer for outer in call.plan.outers if outer.leaf == name]
    if outers:
        return _outer(call, outers, gradients, like)
    output = next((o for o in gradient_outputs(call.plan) if o.name == f"grad.{name}"), None)
    if output is None:
        return torch.zeros_like(like)
    value = gradients[output.name]
    return (value if output.kind is Kind.TIME_LANE else value.sum(0)).to(like.dtype)


def _outer(call: Call, outers: Sequence, gradients: Mapping[str, Tensor], like: Tensor) -> Tensor:
    """The sum over sequences and time of outer products, as one matrix product per lane."""
    total = None
    for outer in outers:
        left, right = (gradients[side].flatten(0, 1).movedim(1, 0) for side in (outer.left, outer.right))
        product = torch.bmm(left.transpose(1, 2), right)
        total = product if total is None else total + product
    assert total is not None
    per_lane = call.plan.leaves[outers[0].leaf].per_lane
    return (total if per_lane else total.sum(0)).to(like.dtype)


# --- registration -------------------------------------------------------------------------------------------------
_library = torch.library.Library("recurra", "FRAGMENT")
_library.define("rollout(Tensor[] tensors, Tensor? resets, Tensor? lengths, int time, int number) -> Tensor[]")
_library.define(
    "rollout_backward(Tensor[] grads, Tensor[] saved, Tensor[] tensors, Tensor? resets, Tensor? lengths, int time, "
    "int number) -> Tensor[]"
)
_library.impl("rollout", _forward, "CPU")
_library.impl("rollout_backward", _backward, "CPU")


def _fake_forward(tensors, _resets, _lengths, time, number):  # type: ignore[no-untyped-def]
    call = _calls[number]
    return list(_results(call, tensors[0], _batch(call, tensors), time, False).values())


def _fake_backward(_grads, _saved, tensors, *_rest):  # type: ignore[no-untyped-def]
    return [torch.empty_like(t, memory_format=torch.contiguous_format) for t in tensors]


torch.library.register_fake("recurra::rollout", _fake_forward, lib=_library)
torch.library.register_fake("recurra::rollout_backward", _fake_backward, lib=_library)


def _setup(ctx, inputs, output):  # type: ignore[no-untyped-def]
    tensors, resets, lengths, time, number = inputs
    call = _calls[number]
    first = len(call.plan.outputs) + len(call.plan.states)
    ctx.facts = (time, number, len(tensors), len(output) - first, resets is not None, lengths is not None)
    ctx.shapes = [(o.shape, o.dtype) for o in output[:first]]
    optional = [t for t in (resets, lengths) if t is not None]
    ctx.save_for_backward(*tensors, *output[first:], *optional)
    # What is stored has no gradient: it is as large as the states of many time steps, and would be filled with zeros.
    ctx.set_materialize_grads(False)


def _gradient(ctx, grads):  # type: ignore[no-untyped-def]
    time, number, given, kept, has_resets, has_lengths = ctx.facts
    values = list(ctx.saved_tensors)
    tensors, saved, optional = values[:given], values[given : given + kept], values[given + kept :]
    resets = optional.pop(0) if has_resets else None
    lengths = optional.pop(0) if has_lengths else None
    full = [
        torch.zeros(shape, dtype=dtype) if grad is None else grad
        for grad, (shape, dtype) in zip(grads, ctx.shapes, strict=False)
    ]
    # Only the operator can be asked for its own gradient, see `_second_gradient`.
    run = torch.ops.recurra.rollout_backward if torch.is_grad_enabled() or _watched([*full, *tensors]) else _backward
    back = run(full, saved, tensors, resets, lengths, time, number)
    return [g if t.is_floating_point() else None for g, t in zip(back, tensors, strict=True)], None, None, None, None


class _Rollout(torch.autograd.Function):
    """The operator where only autograd has to know of it, which takes less time."""

    @staticmethod
    def forward(*args: Any) -> tuple[Tensor, ...]:
        resets, lengths, time, number, *tensors = args
        return tuple(_forward(tensors, resets, lengths, time, number))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, ...]) -> None:
        _setup(ctx, (inputs[4:], *inputs[:4]), output)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple:
        back, *others = _gradient(ctx, grads)
        return *others, *back


def _second_gradient(_ctx, *_grads):  # type: ignore[no-untyped-def]
    raise RecurraError(
        "a gradient of a gradient is asked for, and the compiled loop is differentiable once: call the layer with "
        'engine="loop"'
    )


torch.library.register_autograd("recurra::rollout", _gradient, setup_context=_setup, lib=_library)
torch.library.register_autograd("recurra::rollout_backward", _second_gradient, lib=_library)
