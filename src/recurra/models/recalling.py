"""A language model that recalls what followed where it was in the same mind."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from recurra import options
from recurra.models.language_model import LanguageModel
from recurra.state import State


class Recalling(nn.Module):
    """A trained language model beside a cache of its last `size` hidden states and the tokens that came after them:

    p(w) = (1 - share) p_model(w) + share sum_i softmax_i(flatness h_t h_i) [w_{i+1} = w],  i < t.

    The call is the model's, `scores, state = recalling(tokens, state)`; scores are logarithms of p. The state is the
    model's and the cache.

    Source: Improving Neural Language Models with a Continuous Cache, Grave, Joulin, Usunier, 2017, arXiv:1612.04426.

    Args:
        size: how many steps are recalled.
        share: of what the cache says.
        flatness: 0 counts all alike; the higher, the more alike a state has to be.
    """

    def __init__(self, model: LanguageModel, size: int = 100, share: float = 0.1, flatness: float = 0.3):
        super().__init__()
        self.model = options.instance("model", model, LanguageModel)
        self.size, self.share = options.count("size", size), options.number("share", share, 0, 1)
        self.flatness = options.number("flatness", flatness, 0)

    def initial_state(self, batch: int) -> State:
        """The state before the first token: an empty cache, and nothing read."""
        empty = self.model.norm.weight.new_zeros(batch, 0, self.model.width)  # type: ignore[operator]
        nothing = torch.empty(batch, 0, dtype=torch.int64)
        return State(self.model.initial_state(batch) | {"cache.hidden": empty, "cache.token": nothing})

    def forward(self, tokens: Tensor, state: Mapping[str, Tensor] | None = None) -> tuple[Tensor, State]:
        """Logarithms of the chances of the token after each of `tokens` [B, T], [B, T, vocabulary], and the state after
        the last."""
        state = self.initial_state(len(tokens)) if state is None else state
        own = State({name: value for name, value in state.items() if not name.startswith("cache.")})
        scores, hidden, after = self.model.with_hidden_states(tokens, own)
        keys, last = state["cache.hidden"], hidden[-1]
        # What followed the cached states: all but the first of the tokens since then.
        past = torch.cat([keys, last], 1)
        seen = torch.cat([state["cache.token"], tokens], 1)[:, 1:] if keys.shape[1] else tokens[:, 1:]
        recalled = self._recalled(last, past[:, :-1], seen, keys.shape[1], scores)
        log_chances = scores.log_softmax(-1)
        mixed = torch.log((1 - self.share) * log_chances.exp() + self.share * recalled)
        some = recalled.sum(-1, keepdim=True) > 0
        found = torch.where(some, mixed, log_chances)
        kept = {"cache.hidden": past[:, -self.size - 1 :], "cache.token": self._kept(state, tokens)}
        return found, State(after | kept)

    def _kept(self, state: Mapping[str, Tensor], tokens: Tensor) -> Tensor:
        return torch.cat([state["cache.token"], tokens], 1)[:, -self.size - 1 :]

    def _recalled(self, query: Tensor, keys: Tensor, follows: Tensor, before: int, scores: Tensor) -> Tensor:
        """[B, T, vocabulary]: what the cache says at each step."""
        steps = torch.arange(query.shape[1], device=query.device)[:, None] + before
        places = torch.arange(keys.shape[1], device=query.device)
        there = (places < steps) & (places >= steps - self.size)
        alike = torch.where(there, self.flatness * (query @ keys.transpose(1, 2)), -torch.inf)
        weights = torch.where(there, alike.softmax(-1), 0)
        return torch.zeros_like(scores).scatter_add(2, follows[:, None].expand(-1, query.shape[1], -1), weights)
