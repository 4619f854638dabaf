"""Affine steps with constant coefficients as one convolution: the step's response to impulses, by FFT with the signal.

The kernel comes from the step itself, run once on impulses instead of on every sequence. The last state is a product of
the signal with powers of the step's matrix. What a convolution cannot express - a sequence with resets or padding, and
one with values that are not finite, which a Fourier transform would spread - is run by the loop instead.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from recurra.compiler.frontend.structure import flat_states, jacobian_rows
from recurra.compiler.frontend.values import parts
from recurra.engines import affine, compiled, loop
from recurra.engines.everywhere import Everywhere, Trajectory, joined, real_parts
from recurra.engines.gate import hidden, hindrance
from recurra.engines.rates import Estimate, current
from recurra.engines.traced import TracedStep, counts, traced_step
from recurra.problem import Problem, Rollout, StepInput, cast

CHUNK = 128
"""Time steps that one matrix product takes into the last state."""


def refuses(problem: Problem) -> str | None:
    """The reason why this problem is no convolution, or None."""
    step = traced_step(problem)
    if isinstance(step, str):
        return step
    if not step.structure.affine:
        return f"its step is not affine in the state: {step.structure.obstacle}"
    if not step.structure.constant:
        return "the coefficients of its state change in time: use engine='scan'"
    if not step.structure.invariant:
        return "its output is not a fixed combination of state and inputs: use engine='scan'"
    return counts(problem) or hidden(problem.tensors()) or hindrance(problem.tensors())


def run(problem: Problem) -> Rollout:
    """All time steps; differentiable by autograd. Only after `refuses` has given None."""
    if problem.batch * problem.time == 0:
        return loop.run(problem)
    plain = _plain_rows(problem)
    if plain.all():
        return _convolve(problem)
    if not plain.any():
        return _sequential(problem)
    pieces = [(rows, engine(_rows(problem, rows))) for rows, engine in
              ((plain.nonzero()[:, 0], _convolve), ((~plain).nonzero()[:, 0], _sequential))]  # fmt: skip
    order = torch.cat([rows for rows, _ in pieces]).argsort()
    return Rollout(
        torch.cat([r.y for _, r in pieces])[order],
        {name: torch.cat([r.state[name] for _, r in pieces])[order] for name in problem.step.names},
    )


def estimate(problem: Problem) -> Estimate:
    """What a run forward is expected to take: impulses through the step, transforms, the last state."""
    step, rates = traced_step(problem), current()
    assert isinstance(step, TracedStep)
    impulses = _impulses_needed(problem)
    outputs = sum(node.size for node in parts("y", step.traced.y).values())
    points = problem.lanes * 2 * problem.time
    transforms = (problem.batch * (impulses + outputs) + impulses * outputs) * math.log2(2 * problem.time + 2)
    states = problem.batch * problem.time * problem.lanes * step.structure.size
    seconds = points * transforms * rates.transform + states * rates.element + 100 * rates.operation
    sequences = replace(problem, batch=impulses + 1, resets=None, lengths=None)
    engine = compiled if compiled.refuses(problem) is None else loop
    seconds += engine.estimate(sequences).seconds
    return Estimate(seconds, 4 * points * (2 * problem.batch * (impulses + outputs) + 3 * impulses * outputs))


def _impulses_needed(problem: Problem) -> int:
    """Real signals that a lane reads at a time step."""
    return sum(
        int(torch.Size(e.tensor.shape[2 + e.per_lane :]).numel()) * (1 + e.tensor.is_complex())
        for e in _read(problem).values()
    )


def _read(problem: Problem) -> dict[str, StepInput]:
    """The signals: inputs that change in time and that the step does something with."""
    step = traced_step(problem)
    assert isinstance(step, TracedStep)
    return {
        name: entry
        for name, entry in problem.inputs.items()
        if entry.per_time and any(f"input.{name}{part}" in step.read for part in ("", ".real", ".imag"))
    }


def _plain_rows(problem: Problem) -> Tensor:
    """[B]: which sequences are one whole stretch of finite numbers."""
    plain = torch.ones(problem.batch, dtype=torch.bool, device=problem.device)
    if problem.resets is not None:
        plain &= ~problem.resets.any(1)
    if problem.lengths is not None:
        plain &= problem.lengths == problem.time
    for entry in _read(problem).values():
        plain &= entry.tensor.isfinite().flatten(1).all(1)
    return plain


def _rows(problem: Problem, rows: Tensor) -> Problem:
    """The problem of some of the sequences."""
    return replace(
        problem,
        inputs={n: replace(e, tensor=e.tensor[rows]) if e.per_time else e for n, e in problem.inputs.items()},
        state={n: t[rows] for n, t in problem.state.items()},
        resets=None if problem.resets is None else problem.resets[rows],
        lengths=None if problem.lengths is None else problem.lengths[rows],
        batch=len(rows),
    )


def _sequential(problem: Problem) -> Rollout:
    return compiled.run(problem) if compiled.refuses(problem) is None else loop.run(problem)


# --- the convolution ----------------------------------------------------------------------------------------------
def _convolve(problem: Problem) -> Rollout:
    dtype = problem.compute_dtype
    signals = {n: cast(e.tensor, dtype) for n, e in _read(problem).items()}
    response = _sequential(_impulses(problem, problem.time)).y
    kernels, offset = (response[:-1] - response[-1:]), response[-1]
    y = offset + sum(
        _convolution(kernel, x) for kernel, x in zip(kernels, _real_signals(problem, signals), strict=True)
    )
    if any(t.requires_grad or bool((t != 0).any()) for t in problem.state.values()):
        y = y + _sequential(_unforced(problem)).y - offset
    return Rollout(cast(y, problem.dtype), _last_state(problem, signals))


def _real_signals(problem: Problem, signals: Mapping[str, Tensor]) -> list[Tensor]:
    """Every real number that the step reads at a time step, as [B, T, L], in the order of the impulses."""
    result = []
    for name, t in signals.items():
        t = t if problem.inputs[name].per_lane else t[:, :, None].expand(-1, -1, problem.lanes, *t.shape[2:])
        for part in real_parts({name: t}).values():
            result += list(part.reshape(*part.shape[:3], -1).unbind(-1))
    return result


def _impulses(problem: Problem, time: int, trajectory: bool = False) -> Problem:
    """One sequence per real signal that is 1 at the first time step, else 0; then one of zeros. From zero states."""
    sizes = {}
    for name, entry in _read(problem).items():
        shape = entry.tensor.shape[2 + entry.per_lane :]
        sizes[name] = (shape, int(torch.Size(shape).numel()) * (2 if entry.tensor.is_complex() else 1))
    count, first, inputs = 1 + sum(n for _, n in sizes.values()), 0, {}
    for name, entry in problem.inputs.items():
        if not entry.per_time:
            inputs[name] = entry
            continue
        dtype = problem.compute_dtype
        axes = (count, time, problem.lanes) if entry.per_lane else (count, time)
        if name not in sizes:
            unread = entry.tensor.new_zeros(1).expand(*axes, *entry.tensor.shape[len(axes) :])
            inputs[name] = replace(entry, tensor=cast(unread, dtype))
            continue
        shape, size = sizes[name]
        flat = torch.zeros(*axes, size, dtype=dtype, device=problem.device)
        for i in range(size):
            flat[first + i, 0, ..., i] = 1
        first += size
        if entry.tensor.is_complex():
            parts = flat.unflatten(-1, (2, -1))
            flat = torch.complex(parts[..., 0, :], parts[..., 1, :])
        inputs[name] = StepInput(flat.reshape(*axes, *shape), True, entry.per_lane)
    return replace(
        problem, inputs=inputs, step=Trajectory(problem.step) if trajectory else problem.step,
        state={n: torch.zeros(count, *t.shape[1:], dtype=t.dtype, device=t.device) for n, t in problem.state.items()},
        resets=None, lengths=None, batch=count, time=time, dtype=problem.compute_dtype,
    )  # fmt: skip


def _unforced(problem: Problem) -> Problem:
    """The same sequences with all signals zero: what their first states alone lead to."""
    inputs = {}
    for name, entry in problem.inputs.items():
        zero = torch.zeros((), dtype=entry.tensor.dtype, device=problem.device).expand_as(entry.tensor)
        inputs[name] = replace(entry, tensor=cast(zero, problem.compute_dtype)) if entry.per_time else entry
    return replace(problem, inputs=inputs, resets=None, lengths=None, dtype=problem.compute_dtype)


def _convolution(kernel: Tensor, x: Tensor) -> Tensor:
    """The causal convolution over time of a kernel [T, L, ...] with a signal [B, T, L]: [B, T, L, ...]."""
    if kernel.is_complex():
        return torch.complex(_convolution(kernel.real, x), _convolution(kernel.imag, x))
    time = x.shape[1]
    size = _fast_length(2 * time)
    # Time innermost: a transform along an outer axis reads memory in strides.
    x, kernel = x.movedim(1, -1).contiguous(), kernel.movedim(0, -1).contiguous()
    spectrum = torch.fft.rfft(x, size)
    spectrum = spectrum.view(*spectrum.shape[:2], *[1] * (kernel.dim() - 2), -1)
    return torch.fft.irfft(spectrum * torch.fft.rfft(kernel, size), size)[..., :time].movedim(-1, 1)


def _fast_length(least: int) -> int:
    """The smallest product of 2, 3 and 5 that is at least `least`."""
    best = 1 << (least - 1).bit_length()
    for fives in (1, 5):
        for threes in (1, 3, 9):
            rest = -(-least // (fives * threes))
            best = min(best, fives * threes << (rest - 1).bit_length())
    return best


# --- the last state -----------------------------------------------------------------------------------------------
def _last_state(problem: Problem, signals: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Chunk by chunk: a chunk's own part is one product with the step's responses, and decays by a power of its matrix.

    Where time is no multiple of a chunk the first chunk is shorter, and filled up with zeros in front.
    """
    step = traced_step(problem)
    assert isinstance(step, TracedStep)
    states, _ = flat_states(step.traced)
    blocks = affine.Blocks({name: node.shape for name, node in states.items()}, step.structure.groups)
    size = min(CHUNK, problem.time)
    count = -(-problem.time // size)
    rest = problem.time - (count - 1) * size
    response = _sequential(_impulses(problem, size, trajectory=True)).y  # [signals + 1, C, L, n]
    x = torch.stack(_real_signals(problem, signals))  # [signals, B, T, L]
    x = torch.nn.functional.pad(x, (0, 0, size - rest, 0)).unflatten(2, (count, size)).flip(3)
    u = torch.einsum("sbkcl,scln->bkln", x, response[:-1] - response[-1:])
    u = u + torch.cat([response[-1, rest - 1 : rest], response[-1, -1:].expand(count - 1, -1, -1)])
    parts = u.split([node.size for node in states.values()], -1)
    u = blocks.gather(
        {n: p.reshape(*p.shape[:3], *v.shape) for (n, v), p in zip(states.items(), parts, strict=True)}, 2
    )
    A = _matrix(problem, step, blocks)
    powers = torch.stack([_power(A, rest), *[_power(A, size)] * (count - 1)]).expand(problem.batch, -1, -1, -1, -1)
    first, start = real_parts(problem.state), real_parts(problem.start)
    h = affine.solve(powers, u, blocks.gather(first, 1), blocks.gather(start, 0), None, None)
    return joined(problem, {n: t[:, -1] for n, t in blocks.scatter(h, problem.lanes).items()})


def _matrix(problem: Problem, step: TracedStep, blocks: affine.Blocks) -> Tensor:
    """The step's matrix [b, b, N]; any time step will do."""
    inputs = {n: replace(e, tensor=e.tensor[:1, :1]) if e.per_time else e for n, e in problem.inputs.items()}
    whole = Everywhere(replace(problem, inputs=inputs, batch=1, time=1), step)
    rows = jacobian_rows(step.traced, blocks.groups)
    values = whole([node for row in rows for node in row], {})
    pieces = [values[i : i + len(blocks.shapes)] for i in range(0, len(values), len(blocks.shapes))]
    return torch.stack([blocks.gather(dict(zip(blocks.shapes, p, strict=True)), 2)[0, 0] for p in pieces])


def _power(A: Tensor, exponent: int) -> Tensor:
    """A to a positive power, by squaring."""
    if exponent == 1:
        return A
    half = _power(affine.product(A, A), exponent // 2)
    return affine.product(half, A) if exponent % 2 else half
