"""Softmax attention over keys that move: every time step changes all keys before it by a linear map.

In chunks of time, as seen from their borders: keys are taken to the end of their own chunk, queries back to its start
and then from chunk to chunk, so that nothing is done twice and memory is linear in time.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from recurra.attention import cache
from recurra.attention.base import Attention, Call
from recurra.attention.fades import Fades
from recurra.attention.softmax import BLOCK, Bias, all_fine
from recurra.engines.gate import without_autocast


@dataclass(frozen=True)
class Chunks:
    """Time steps in n chunks of C; what follows the last one, up to n C, is zero and changes no key."""

    q: Tensor
    """[B, H, n, C, K], what the queries ask keys as they are before the chunk."""
    k: Tensor
    """[B, H, n, C, K], the keys as they are after the chunk."""
    scores: Tensor
    """[B, H, n, C, C], of the queries and keys of one chunk; what is above the diagonal does not matter."""
    back: Callable[[Tensor, int], Tensor]
    """From queries [B, H, ..., K] after a chunk, and its number, to what they ask keys as they are before it."""


class MovingKeys(Attention):
    """Attention whose time steps change the keys before them. A subclass writes what `Attention` asks for but `kept`
    and `parallel`, with inputs q, k, v, those named in `moves` and, where entries fade by gates, `log_gate`, and

    - `chunks(self, q, k, *moves)`: `Chunks` from [B, H, n, C, ...] each. Zeros in `moves` have to change no key.
    """

    moves: ClassVar[tuple[str, ...]]
    """Names of the inputs that the changes are made of."""
    chunk: ClassVar[int]
    """The most time steps in a chunk."""

    @abstractmethod
    def chunks(self, q: Tensor, k: Tensor, *moves: Tensor) -> Chunks:
        """The time steps of chunks as seen from the chunks' borders."""

    def kept(self, position: Tensor) -> Tensor:
        return position

    def parallel(self, call: Call) -> tuple[Tensor, dict[str, Tensor]]:
        state, dtype = call.state, call.state["keys"].dtype
        time, carried = call.position.shape[1], state["keys"].shape[2]
        steps = torch.arange(time, device=call.position.device)
        given = {name: part.transpose(1, 2).to(dtype) for name, part in call.inputs.items()}
        # An entry of which anything is not finite makes NaN of all queries that see it, and of nothing else.
        own = torch.stack([_fine(part) for name, part in given.items() if name != "q"]).all(0)
        fine = torch.cat([_fine(state["keys"]) & _fine(state["values"]), own], 2)
        stop = carried + 1 + steps.expand_as(call.position)
        seen_fine = all_fine(fine, stop - call.position - 1, stop) & _fine(given["q"])
        clean = {name: torch.where(part.isfinite(), part, 0) for name, part in given.items()}
        valid = cache.spread(steps < call.ends[:, None], 3)
        for name in clean.keys() - {"q", "k", "v"}:
            part = clean[name]
            clean[name] = torch.where(valid.reshape(*valid.shape, *[1] * (part.dim() - 3)), part, 0)
        before, values = (torch.where(fine[..., :carried, None], state[n], 0).to(dtype) for n in ("keys", "values"))
        values = torch.cat([values, clean["v"]], 2)
        fades = Fades(state["decays"], clean["log_gate"]) if "decays" in state else None
        with without_autocast(values.device):  # rounded maps would move keys elsewhere with every time step
            chunks = self.chunks(*(_chunked(clean[name], self.chunk) for name in ("q", "k", *self.moves)))
            y = attend(chunks, before, values, _mask(call.position, carried, fades), given["q"].shape[3] ** -0.5)
            keys = torch.where(fine[..., None], moved(chunks, before, time), float("nan"))
        entries = {"keys": keys, "values": cache.extend(state["values"], call.inputs["v"])}
        if fades is not None:
            entries["decays"] = fades.decays(time)
        after = {name: cache.newest(part, carried + call.ends, call.last) for name, part in entries.items()}
        return torch.where(seen_fine[..., None], y, float("nan")).transpose(1, 2), after


def attend(chunks: Chunks, carried: Tensor, values: Tensor, mask: Bias, scale: float) -> Tensor:
    """What queries read: [B, H, T, V].

    Args:
        carried: [B, H, S, K], keys as they are before the first chunk.
        values: [B, H, S + T, V].
        mask: what is added to scores; -inf for entries that a query does not see.
    """
    size, before = chunks.q.shape[3], carried.shape[2]
    time = values.shape[2] - before

    def block(i: int, q: Tensor, k: Tensor, scores: Tensor, carried: Tensor, values: Tensor) -> Tensor:
        begin, end = i * size, min((i + 1) * size, time)
        q, parts = q[:, :, i, : end - begin], [scores[:, :, i, : end - begin, : end - begin]]
        for j in reversed(range(i)):
            parts.append(q @ k[:, :, j].mT)
            q = chunks.back(q, j)
        parts.append(q @ carried.mT)
        weights = torch.softmax(torch.cat(parts[::-1], -1) * scale + mask(begin, end, 0), -1)
        return weights @ values[:, :, : before + end]

    given = chunks.q, chunks.k, chunks.scores, carried, values
    count = chunks.q.shape[2]
    if time <= BLOCK:
        return torch.cat([block(i, *given) for i in range(count)], 2)
    # Each block is computed again for its gradient: what is kept in between is linear in time.
    how: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}
    return torch.cat([checkpoint(block, i, *given, **how) for i in range(count)], 2)


def moved(chunks: Chunks, carried: Tensor, time: int) -> Tensor:
    """All keys as they are after the last chunk, [B, H, S + T, K]."""
    # As queries go back, keys go on: the way of the unit vectors is the product of the maps.
    way = torch.eye(carried.shape[3], dtype=carried.dtype, device=carried.device).expand(*carried.shape[:2], -1, -1)
    keys = []
    for i in reversed(range(chunks.k.shape[2])):
        keys.append(chunks.k[:, :, i] @ way.mT)
        way = chunks.back(way, i)
    keys.append(carried @ way.mT)
    return torch.cat(keys[::-1], 2)[:, :, : carried.shape[2] + time]


def _fine(x: Tensor) -> Tensor:
    """Where x [B, H, T], or all of x [B, H, T, K], is finite."""
    return x.isfinite() if x.dim() == 3 else x.isfinite().all(-1)


def _chunked(x: Tensor, size: int) -> Tensor:
    """x [B, H, T, ...] in one chunk or more of at most `size` time steps, then zeros: [B, H, n, C, ...]."""
    time = x.shape[2]
    size = max(1, min(size, time))
    count = max(1, -(-time // size))
    after = x.new_zeros(*x.shape[:2], count * size - time, *x.shape[3:])
    return torch.cat([x, after], 2).unflatten(2, (count, size))


def _mask(position: Tensor, carried: int, fades: Fades | None) -> Bias:
    """What is added to scores: by how much entries have faded, -inf for those of other sequences and of later."""

    def mask(begin: int, end: int, first: int) -> Tensor:
        place = torch.arange(first, carried + end, device=position.device)
        own = carried + torch.arange(begin, end, device=position.device)[:, None]
        seen = ((place <= own) & (place >= own - position[:, begin:end, None]))[:, None]
        return torch.where(seen, 0.0 if fades is None else fades.bias(begin, end, first), float("-inf"))

    return mask
