"""The pass from chunk to chunk by kernels of our own, forward and back."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import is_legacy_batchedtensor

from recurra.compiler.codegen.chunks import CHUNK
from recurra.compiler.targets import host
from recurra.engines.kernels.batched import batched
from recurra.engines.kernels.chunks import run_chunks
from recurra.engines.kernels.operator import of_many
from recurra.engines.products import is_open


def runs(t: Tensor, size: int) -> bool:
    """Whether there are kernels for chunks of `size` time steps of what is like t."""
    return size == CHUNK and t.shape[-1] > 0 and host.vector_bytes() == 64 and is_open(t)


def products(rows: Tensor, k: Tensor) -> Tensor:
    """rows k^T, of [..., R, K] and [..., C, K] to [..., R, C]."""
    if not (runs(rows, CHUNK) and runs(k, CHUNK)):
        return rows @ k.mT
    lead = torch.broadcast_shapes(rows.shape[:-2], k.shape[:-2])
    rows, k = (t.expand(*lead, *t.shape[-2:]).flatten(0, -3).contiguous() for t in (rows, k))
    return _Products.apply(rows, k).unflatten(0, lead)


class _Products(torch.autograd.Function):
    """rows k^T of many items, [N, R, K] and [N, C, K] to [N, R, C]."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, k: Tensor) -> Tensor:
        ctx.save_for_backward(rows, k)
        return batched(rows, k.mT)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        rows, k = ctx.saved_tensors
        if is_legacy_batchedtensor(grad):
            return grad @ k, grad.mT @ rows
        grad = grad.contiguous()
        return batched(grad, k), batched(grad.mT, rows)


def passed(
    scores: Tensor, v: Tensor, both: Tensor, take: Tensor, S: Tensor,
    since: Tensor | None, until: Tensor | None, through: Tensor | None,
    mixed: Tensor | None = None, k: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """o [N, B, H, C, V] and the last state [B, H, V, K], from tensors [N, B, H, ...] as `codegen.chunks` has them.

    scores is [R, C] and both [R, K], where R is 2 C, or C where nothing is erased; since and until are [C, 1], through
    [1, 1 or K]: None for ones.
    """
    lead, one = (len(v), *S.shape[:2]), S.new_ones(1, 1, 1, 1, 1)
    steps = (one.expand(-1, -1, -1, CHUNK, -1) if t is None else t for t in (since, until))
    through = (one if through is None else through).expand(*lead, 1, S.shape[-1])
    given = (scores, v, both, take, *(t[..., 0] for t in steps), through[..., 0, :])
    flat = (t.expand(*lead, *t.shape[3:]).flatten(1, 2) for t in given)
    o, S = _Passed.apply(*flat, *(None if t is None else t.flatten(1, 2) for t in (mixed, k)), S.flatten(0, 1).mT)
    return o.unflatten(1, lead[1:]), S.mT.unflatten(0, lead[1:])


class _Passed(torch.autograd.Function):
    """o [N, M, C, V] and the last state [M, K, V] of M memories."""

    @staticmethod
    def forward(ctx: Any, *tensors: Tensor | None) -> tuple[Tensor, Tensor]:
        given = {name: t.contiguous() for name, t in zip((*NAMES, "S"), tensors, strict=True) if t is not None}
        v, S, keep = given["v"], given.pop("S"), any(ctx.needs_input_grad)
        (chunks, memories, size, values), rows = v.shape, given["both"].shape[2]
        form = "takes" if "k" in given else "corrects" if rows > size else "adds"
        states, reads = S.new_empty(chunks + 1 if keep else 1, *S.shape), v.new_empty(chunks, memories, rows, values)
        states[0] = S
        made = {"states": states}
        if form != "adds":
            made |= {"inverse": v.new_empty(chunks, memories, size, size), "U": torch.empty_like(v)}
        run_chunks(form, given | made | {"reads": reads}, keep)
        if keep:
            ctx.form, ctx.names = form, [*given, *made]
            ctx.save_for_backward(*given.values(), *made.values())
        return reads[:, :, rows - size :], states[-1].clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, do: Tensor, dS: Tensor) -> tuple[Tensor | None, ...]:
        given = dict(zip(ctx.names, ctx.saved_tensors, strict=True))
        names = [name for name in NAMES if name in given]

        def back(grads: list[Tensor]) -> list[Tensor]:
            made = {GRADIENTS[name]: torch.empty_like(given[name]) for name in names}
            made["dS"] = grads[1].clone(memory_format=torch.contiguous_format)
            run_chunks(ctx.form, given | {"d_out": grads[0].contiguous()} | made, True, backward=True)
            return list(made.values())

        many = any(map(is_legacy_batchedtensor, (do, dS)))
        found = dict(zip((*names, "S"), of_many([do, dS], back) if many else back([do, dS]), strict=True))
        return tuple(found.get(name) for name in (*NAMES, "S"))


NAMES = ("scores", "v", "both", "take", "since", "until", "through", "mixed", "k")
GRADIENTS = {name: f"d{name}" if len(name) == 1 else f"d_{name}" for name in NAMES}
