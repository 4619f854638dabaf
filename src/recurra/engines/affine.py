"""h_t = A_t h_{t-1} + u_t for all time steps: the one linear solve that the engines parallel in time share.

States of all lanes are brought into blocks that do not influence each other: A [B, T, b, b, N] and u [B, T, b, N] for
N blocks of b numbers, blocks innermost. On the CPU the compiled loop solves it, elsewhere an associative scan.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from recurra.engines import compiled
from recurra.engines.associative import scan
from recurra.engines.reading import Named
from recurra.problem import Lane, Problem, StepInput


@dataclass(frozen=True)
class Blocks:
    """Which elements of a lane's flattened real states form which block."""

    shapes: Mapping[str, tuple[int, ...]]
    """Real states by name."""
    groups: tuple[tuple[int, ...], ...]

    @property
    def size(self) -> int:
        """Numbers in a block; smaller groups are padded with zeros."""
        return max(map(len, self.groups))

    def gather(self, states: Mapping[str, Tensor], axes: int) -> Tensor:
        """[..., L, *shape] per state to [..., b, N], where `axes` axes come before that of the lanes."""
        parts = [
            states[name].reshape(*states[name].shape[: axes + 1], _size(shape)) for name, shape in self.shapes.items()
        ]
        parts = [part.transpose(-1, -2) for part in parts]
        return self.arranged(torch.cat(parts, -2) if len(parts) > 1 else parts[0])

    def arranged(self, flat: Tensor) -> Tensor:
        """Flattened states [..., n, L] as [..., b, N]."""
        if not self._in_order:
            flat = torch.nn.functional.pad(flat, (0, 0, 0, 1))[..., self.index(flat), :]
        return flat.unflatten(-2, (len(self.groups), self.size)).transpose(-3, -2).flatten(-2)

    def scatter(self, blocks: Tensor, lanes: int) -> dict[str, Tensor]:
        """The inverse of `gather`."""
        flat = blocks.unflatten(-1, (len(self.groups), lanes)).transpose(-3, -2).flatten(-3, -2)
        if not self._in_order:
            order, count = self.index(flat), sum(map(len, self.groups))
            where = torch.empty(count + 1, dtype=torch.long, device=flat.device)  # the last is for what is padding
            where[order] = torch.arange(len(order), device=flat.device)
            flat = flat[..., where[:count], :]
        parts = flat.split([_size(shape) for shape in self.shapes.values()], -2)
        return {
            name: part.transpose(-1, -2).reshape(*part.shape[:-2], lanes, *shape)
            for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }

    @property
    def _in_order(self) -> bool:
        return [i for group in self.groups for i in group] == list(range(len(self.groups) * self.size))

    def index(self, like: Tensor) -> Tensor:
        """For every place of every block the element of the flattened state, or the zero after the last."""
        after = sum(map(len, self.groups))
        padded = [i for group in self.groups for i in (*group, *[after] * (self.size - len(group)))]
        return torch.tensor(padded, device=like.device)


def _size(shape: tuple[int, ...]) -> int:
    return int(torch.Size(shape).numel())


def solve(A: Tensor, u: Tensor, h: Tensor, start: Tensor, resets: Tensor | None, lengths: Tensor | None) -> Tensor:
    """The states after every time step, [B, T, b, N]; differentiable by autograd in A, u and h.

    Args:
        A: [B, T, b, b, N].
        u: [B, T, b, N].
        h: [B, b, N], the states before the first time step.
        start: [b, N], the state that a reset selects.
        resets, lengths: as in Problem; states stand still in padding.
    """
    if compiled.runs_on(u.device):
        return _by_loop(A, u, h, start, resets, lengths)
    return _by_scan(A, u, h, start, resets, lengths)


class FreeStep:
    """A step that is a plain function of states and inputs, with one state h and no weights."""

    names: tuple[str, ...] = ("h",)
    weights: Mapping[str, Tensor] = {}
    combine = as_delta_rule = None
    _readings: dict[str, Named] = {}

    def __init__(self, name: str, function: Callable):
        self.name, self.function = name, function

    @property
    def owner(self) -> Callable:
        """The function."""
        return self.function

    @property
    def reading(self) -> Named:
        """Nothing is read but arguments: the name says all."""
        return self._readings.setdefault(self.name, Named(self.name))

    def bind(self, weights: Mapping[str, Tensor]) -> FreeStep:  # noqa: ARG002
        return self

    def __call__(self, states: tuple[Tensor, ...], inputs: Mapping[str, Tensor]) -> tuple[tuple[Tensor, ...], Tensor]:
        return self.function(states, inputs)


def _affine(states: tuple[Tensor, ...], inputs: Mapping[str, Tensor]) -> tuple[tuple[Tensor, ...], Tensor]:
    (h,), A, u = states, inputs["A"], inputs["u"]
    h = A * h + u if h.dim() == 0 else (A * h).sum(-1) + u
    return (h,), h


def _by_loop(A: Tensor, u: Tensor, h: Tensor, start: Tensor, resets: Tensor | None, lengths: Tensor | None) -> Tensor:
    """By the compiled loop, blocks as channels."""

    def lanes_first(t: Tensor, axes: int) -> Tensor:
        t = t.movedim(-1, axes)
        return t.flatten(axes + 1).squeeze(-1) if u.shape[2] == 1 else t

    problem = Problem(
        step=FreeStep("affine", _affine),
        inputs={"A": StepInput(lanes_first(A, 2)), "u": StepInput(lanes_first(u, 2))},
        state={"h": lanes_first(h, 1)},
        start={"h": lanes_first(start, 0)},
        resets=resets,
        lengths=lengths,
        batch=u.shape[0],
        time=u.shape[1],
        lanes=u.shape[3],
        lane=Lane.CHANNEL,
        dtype=u.dtype,
        device=u.device,
    )
    y = compiled.run(problem).y
    return (y[..., None] if u.shape[2] == 1 else y).movedim(2, -1)


def _by_scan(A: Tensor, u: Tensor, h: Tensor, start: Tensor, resets: Tensor | None, lengths: Tensor | None) -> Tensor:
    """By an associative scan of (A, u); what a reset cuts off is not multiplied by zero but left out."""
    if lengths is not None:
        padding = torch.arange(u.shape[1], device=u.device) >= lengths[:, None]
        identity = torch.eye(u.shape[2], dtype=u.dtype, device=u.device)[..., None]
        A = torch.where(padding[:, :, None, None, None], identity, A)
        u = torch.where(padding[:, :, None, None], 0, u)
    first = torch.zeros(u.shape[:2], dtype=torch.bool, device=u.device)
    first[:, 0] = True
    before = h[:, None]
    if resets is not None:
        before = torch.where(resets[:, :, None, None], start, before)
        first = first | resets
    u = torch.where(first[:, :, None, None], _apply(A, before) + u, u)

    def combine(earlier: tuple, later: tuple) -> tuple:
        (A0, u0, cut0), (A1, u1, cut1) = earlier, later
        wide = cut1[:, :, None, None]
        return (
            torch.where(wide[..., None], A1, product(A1, A0)),
            torch.where(wide, u1, _apply(A1, u0) + u1),
            cut0 | cut1,
        )

    return scan(combine, (A, u, first))[1]


def _apply(A: Tensor, h: Tensor) -> Tensor:
    """[..., b, b, N] applied to [..., b, N]."""
    return (A * h[..., None, :, :]).sum(-2)


def product(A: Tensor, B: Tensor) -> Tensor:
    """Matrix products of [..., b, b, N], block by block."""
    return sum(A[..., :, j : j + 1, :] * B[..., j : j + 1, :, :] for j in range(A.shape[-2]))  # type: ignore[return-value]
