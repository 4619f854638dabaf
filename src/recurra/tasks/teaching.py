"""What a translation learns from: its tokens, beside them where it looks, and what its encoder alone would say."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from recurra.tasks.feeding import TRUTH, Feed, turns
from recurra.tasks.heads.categorical import Categorical
from recurra.tasks.translation import Memory, Translation

NEAR = 0.2
"""How far from the diagonal a look is let go unpunished, in parts of the whole."""


@dataclass(frozen=True)
class Teaching:
    """The loss of a `Translation`: (1 - beside) (tokens + guide * looks) + beside * CTC.

    Source: of the looks, "guided attention" of Tachibana, Uenoyama, Aihara, 2017, arXiv:1710.08969; of CTC beside
    attention: Hori, Watanabe, Zhang, Chan, 2017, arXiv:1706.02737.
    """

    smoothing: float = 0.0
    guide: float = 0.0
    beside: float = 0.0
    feed: Feed = TRUTH

    def loss(self, model: Translation, source: Tensor, lengths: Tensor, target: Tensor) -> Tensor:
        """Of sources [B, S] int64, `lengths` [B] of them, and targets [B, L] int64, filled up with -1: []."""
        memory, count = model.encode(source, lengths), (target >= 0).sum(1)
        said = torch.cat([target.new_full((len(target), 1), model.begin), target.clamp(min=0)], 1)
        due = nn.functional.pad(target, (0, 1), value=-1).scatter(1, count[:, None], model.end)
        raw, looked = self._said(model, memory, said, count + 1)
        loss = Categorical(model.end + 1, self.smoothing).loss(raw, due)
        if self.guide:
            loss = loss + self.guide * astray(looked, lengths, count + 1)
        if self.beside:
            assert model.frames is not None
            loss = (1 - self.beside) * loss + self.beside * model.frames.loss(memory.y, lengths, target)
        return loss

    def _said(self, model: Translation, memory: Memory, said: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Raw numbers of the tokens after `said` [B, T], or after the model's own where it is fed these, and where each
        step looked."""
        if not self.feed[1]:
            raw, _, looked = model.decode(said, memory, None, lengths)
            return raw, looked
        found: list[tuple[Tensor, Tensor]] = []
        state = model.decoder.initial_state(len(said))
        for first, last, own in turns(self.feed, said.shape[1]):
            stretch = [said[:, first:last]] if not own else [None] * (last - first)
            for tokens in stretch:
                tokens = found[-1][0][:, -1:].argmax(-1) if tokens is None else tokens
                raw, state, looked = model.decode(tokens, memory, state)
                found.append((raw, looked))
        raws, looks = zip(*found, strict=True)
        return torch.cat(raws, 1), torch.cat(looks, 1)


def astray(looked: Tensor, sources: Tensor, targets: Tensor) -> Tensor:
    """How far looks [B, T, S] are from the diagonal, [], 0 to 1, of steps before the padding: `sources` and `targets`
    [B] are the lengths."""
    t, s = torch.arange(looked.shape[1])[:, None], torch.arange(looked.shape[2])
    off = t / targets.clamp(min=1)[:, None, None] - s / sources.clamp(min=1)[:, None, None]
    cost = 1 - torch.exp(-off.square() / (2 * NEAR**2))
    there = t < targets[:, None, None]
    return torch.where(there, looked * cost, 0).sum() / targets.sum().clamp(min=1)
