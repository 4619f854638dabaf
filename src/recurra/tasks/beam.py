"""The likeliest sequences of a model that says one token after another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from recurra import options
from recurra.state import State

Step = Callable[[Tensor, State, Tensor], tuple[Tensor, State, Tensor | None]]
"""Of the last tokens [n], the state of n rows, and which sequence each row is of [n]: the logarithm of the chance of
each next token [n, V], the new state, and where it looked, [n, S], or None."""


@dataclass(frozen=True)
class Found:
    """The best of each of B sequences."""

    tokens: Tensor
    """[B, L] int64; behind the end, `end`."""
    lengths: Tensor
    """[B] int64: tokens before the end."""
    scores: Tensor
    """[B]: what they were chosen by."""


@torch.no_grad()
def beam(
    step: Step,
    state: State,
    begin: int,
    end: int,
    *,
    width: int = 4,
    longest: int = 100,
    length_penalty: float = 0.0,
    coverage: float = 0.0,
) -> Found:
    """Keep the `width` likeliest beginnings of each sequence at every step; a finished one never moves again, and each
    sequence is searched as if it were alone.

    Chosen is, among those that are finished or `longest` tokens long, the largest log p / ((5 + l) / 6)^length_penalty,
    l the tokens with the end, plus `coverage` times the sum over source tokens of log(min(what looked at them, 1)).

    Source: of both penalties, Wu et al., 2016, arXiv:1609.08144.

    Args:
        step: see `Step`.
        state: of B rows, before the first token.
        begin, end: the token before the first, and the one that ends.

    Raises:
        InputError: an argument is out of range.
    """
    options.count("width", width)
    options.count("longest", longest)
    options.number("length_penalty", length_penalty, 0)
    options.number("coverage", coverage, 0)
    batch = len(next(iter(state.values())))
    which = torch.arange(batch).repeat_interleave(width)
    state = State(state).rows(which)
    scores = torch.full((batch, width), -torch.inf)
    scores[:, 0] = 0.0  # all rows of a sequence are the same at first: one of them counts
    last, done = torch.full((batch * width,), begin), torch.zeros(batch, width, dtype=torch.bool)
    tokens, seen = torch.empty(batch, width, 0, dtype=torch.int64), torch.zeros(batch, width, 0)
    lengths = torch.zeros(batch, width, dtype=torch.int64)
    for _ in range(longest):
        log_p, after, looked = step(last, state, which)
        log_p, scores = log_p.unflatten(0, (batch, width)), scores.to(log_p.dtype)
        stay = torch.full_like(log_p[0, 0], -torch.inf)
        stay[end] = 0.0
        total = scores[..., None] + torch.where(done[..., None], stay, log_p)
        scores, chosen = total.flatten(1).topk(width, sorted=True)
        parent, token = chosen // log_p.shape[-1], chosen % log_p.shape[-1]
        rows = (torch.arange(batch)[:, None] * width + parent).flatten()
        was_done = done.gather(1, parent)
        state = _chosen(state, after, rows, was_done.flatten())
        tokens = torch.cat([tokens.gather(1, parent[..., None].expand(-1, -1, tokens.shape[2])), token[..., None]], 2)
        lengths = lengths.gather(1, parent) + (~was_done)
        if looked is not None:
            looked = torch.where(done[..., None], 0, looked.unflatten(0, (batch, width)))
            seen = looked if not seen.shape[2] else seen + looked
            seen = seen.gather(1, parent[..., None].expand_as(seen))
        done = was_done | (token == end)
        last = token.flatten()
        if done.all():
            break
    final = scores / ((5 + lengths.to(scores.dtype)) / 6) ** length_penalty
    if coverage and seen.shape[2]:
        final = final + coverage * seen.clamp(1e-9, 1).log().sum(-1)
    return _best(tokens, lengths - done.long(), final)


def _best(tokens: Tensor, lengths: Tensor, scores: Tensor) -> Found:
    """Of the beginnings [B, width, L] of each sequence the one with the largest score."""
    best = scores.argmax(1, keepdim=True)
    found = tokens.gather(1, best[..., None].expand(-1, -1, tokens.shape[2]))[:, 0]
    return Found(found, lengths.gather(1, best)[:, 0], scores.gather(1, best)[:, 0])


def _chosen(before: State, after: State, rows: Tensor, done: Tensor) -> State:
    """Rows of the new state; of the one before where a row is done: what is finished is asked again, but never moves.
    What grows with time has moved for all of them, and its newest entry is not read again."""

    def one(old: Tensor, new: Tensor) -> Tensor:
        if old.shape != new.shape:
            return new[rows]
        return torch.where(done[(..., *[None] * (old.dim() - 1))], old[rows], new[rows])

    return State({name: one(old, after[name]) for name, old in before.items()})
