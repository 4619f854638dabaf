"""The kernels of a call on memory: what they write to, the way forward, the way back, and the sums that are left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from recurra.compiler.codegen.arguments import Kind, gradient_outputs, leaf_kind
from recurra.engines import products
from recurra.engines.kernels import segments, threads
from recurra.engines.kernels.call import Call
from recurra.engines.kernels.launch import REAL, blocks_of, launch, packed_matrices
from recurra.errors import RecurraError

STORED = REAL | {"i8": torch.bool}
"""How arguments of each scalar type are stored."""


# --- shapes -------------------------------------------------------------------------------------------------------
def _shape(call: Call, kind: Kind, size: tuple[int, ...], batch: int, time: int, items: int, blocks: int) -> list[int]:
    """The shape of an argument of a kind, in the layout of the kernels."""
    # Asked for every argument of every call: one shape is made, not one of each kind.
    channel, lanes = call.plan.channel, call.plan.lanes
    match kind:
        case Kind.TIME:
            return [batch, time, *size]
        case Kind.ONE:
            return [*size]
        case Kind.PART_TIME:
            return [blocks if channel else lanes, batch, time, *size]
        case Kind.PART:
            return [items, *size]
    inner = [*size, lanes] if channel else [lanes, *size]
    match kind:
        case Kind.TIME_LANE:
            return [batch, time, *inner]
        case Kind.BATCH_LANE:
            return [batch, *inner]
        case Kind.CHUNK:
            return [batch, -(-time // call.chunk), *inner]
        case Kind.PART_LANE:
            return [batch if channel else -(-batch // call.rows), *inner]
    return inner


def results_of(call: Call, like: Tensor, batch: int, time: int, zero: bool) -> dict[str, Tensor]:
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


def batch_of(call: Call, tensors: Sequence[Tensor]) -> int:
    """Sequences in the arguments of a call."""
    return tensors[call.names.index(f"state.{next(iter(call.plan.states))}")].shape[0]


def admitted(
    call: Call, tensors: Sequence[Tensor], resets: Tensor | None, lengths: Tensor | None, time: int
) -> list[Tensor]:
    """Arguments that a graph brings, and no engine has prepared, in the order of memory that the kernels read.

    Raises RecurraError if they have other shapes or types than the kernels read, or lengths are none.
    """
    batch, plan = batch_of(call, tensors), call.plan
    kinds = {name: (leaf_kind(leaf), leaf.shape, leaf.scalar) for name, leaf in plan.origin.leaves.items()}
    kinds |= {f"state.{name}": (Kind.BATCH_LANE, shape, plan.real) for name, shape in plan.states.items()}
    kinds |= {f"start.{name}": (Kind.LANE, shape, plan.real) for name, shape in plan.states.items()}
    free, laid = {Kind.TIME_LANE: 2 if plan.channel else 3, Kind.TIME: 2}, []
    for name, t in zip(call.names, tensors, strict=True):
        kind, size, scalar = kinds[name]
        _hold(name, t, _shape(call, kind, size, batch, time, 0, 0), STORED[scalar])
        laid.append(in_order(t.resolve_neg(), free.get(kind, 0)))
    if resets is not None:
        _hold("resets", resets, [batch, time], torch.bool)
    if lengths is not None:
        _hold("lengths", lengths, [batch], torch.int64)
        if ((lengths < 0) | (lengths > time)).any():
            raise RecurraError(f"recurra::rollout is given lengths {lengths.tolist()}; expected 0 to {time}")
    return laid


def _hold(name: str, t: Tensor, shape: list[int], dtype: torch.dtype) -> None:
    if list(t.shape) != shape or t.dtype != dtype:
        raise RecurraError(
            f"recurra::rollout was recorded with {name} {shape} {str(dtype)[6:]} and is given {list(t.shape)} "
            f"{str(t.dtype)[6:]}: call the program with what it was exported with"
        )


def in_order(t: Tensor, free: int) -> Tensor:
    """A tensor whose axes, but for the first `free`, lie in memory as they follow each other."""
    expected = 1
    for size, stride in reversed(list(zip(t.shape[free:], t.stride()[free:], strict=True))):
        if size != 1 and stride != expected:
            return t.contiguous()
        expected *= size
    return t


def forward(
    tensors: Sequence[Tensor], resets: Tensor | None, lengths: Tensor | None, time: int, call: Call
) -> list[Tensor]:
    """Outputs, last states, and what the way back needs."""
    batch = batch_of(call, tensors)
    memory = _context(call, tensors, resets, lengths)
    results = results_of(call, tensors[0], batch, time, lengths is not None)
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


def backward(
    grads: Sequence[Tensor], saved: Sequence[Tensor], tensors: Sequence[Tensor], resets: Tensor | None,
    lengths: Tensor | None, time: int, call: Call,
) -> list[Tensor]:  # fmt: skip
    """The gradient of every argument."""
    batch = batch_of(call, tensors)
    names = [f"grad.{n}" for n in call.plan.outputs] + [f"adjoint.{n}" for n in call.plan.states]
    memory = _context(call, tensors, resets, lengths)
    memory |= {name: grad.resolve_neg().contiguous() for name, grad in zip(names, grads, strict=True)}
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
    gradients |= {name: memory[name] for name, _ in call.stored} | _factors(call, memory, lengths)
    return [_collected(call, name, gradients, t) for name, t in zip(call.names, tensors, strict=True)]


def _factors(call: Call, memory: Mapping[str, Tensor], lengths: Tensor | None) -> dict[str, Tensor]:
    """The inputs that are factors of a weight's gradient, with zeros for padding, which may be anything."""
    sides = {side for outer in call.plan.outers for side in (outer.left, outer.right)}
    factors = {name: memory[name] for name in call.names if name in sides}
    if lengths is not None:
        factors = {name: t.clone() for name, t in factors.items()}
        for t in factors.values():
            _clear_padding(t, lengths)
    return factors


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
        left, right = (gradients[side].flatten(0, 1) for side in (outer.left, outer.right))
        product = products.sums_of_outer(left, right)
        total = product if total is None else total + product
    assert total is not None
    per_lane = call.plan.leaves[outers[0].leaf].per_lane
    return (total if per_lane else total.sum(0)).view(like.shape).to(like.dtype)
