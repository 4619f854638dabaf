"""A session: a model, the state it is in, and the dice it throws."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import count as endless
from pathlib import Path

import torch
from torch import Tensor

from recurra.check import describe
from recurra.errors import InputError
from recurra.models.language_model import LanguageModel
from recurra.state import State


class Session:
    """Takes and gives tokens one by one. Its memory does not grow with what it has read.

    Args:
        model: put into evaluation mode by the caller, if it has dropout.
        seed: of the random choice of tokens.
    """

    def __init__(self, model: LanguageModel, seed: int = 0):
        self.model = model
        self.state = model.initial_state(1)
        self.logits = torch.zeros(model.config["vocabulary"], device=model.embedding.weight.device)
        self.generator = torch.Generator().manual_seed(seed)

    @torch.no_grad()
    def feed(self, tokens: bytes | Iterable[int]) -> Tensor:
        """Read tokens (bytes, or integers) and return the scores of the next one, [vocabulary]."""
        sequence = torch.tensor(list(tokens), dtype=torch.int64, device=self.logits.device)
        for piece in sequence.split(1024):
            logits, self.state = self.model(piece[None], self.state)
            self.logits = logits[0, -1]
        return self.logits

    def generate(self, count: int | None = None, temperature: float = 1.0, top_k: int | None = None) -> Iterator[int]:
        """Draw tokens one after another, each fed back; `count` of them, or without end.

        Args:
            temperature: above 1 bolder, below 1 more cautious; 0 always takes the likeliest.
            top_k: only the k likeliest tokens are drawn from.
        """
        if not temperature >= 0:
            raise InputError(f"temperature is {temperature}; expected 0 or more")
        if top_k is not None and top_k < 1:
            raise InputError(f"top_k is {top_k}; expected at least 1")
        for _ in endless() if count is None else range(count):
            token = self._draw(temperature, top_k)
            self._take(token)
            yield token

    @torch.no_grad()
    def _take(self, token: int) -> None:
        logits, self.state = self.model.advance(torch.tensor([token], device=self.logits.device), self.state)
        self.logits = logits[0]

    def _draw(self, temperature: float, top_k: int | None) -> int:
        logits = self.logits.float().cpu()
        if temperature == 0:
            return int(logits.argmax())
        if top_k is not None and top_k < len(logits):
            logits = torch.where(logits < logits.topk(top_k).values[-1], float("-inf"), logits)
        odds = torch.softmax(logits / temperature, -1)
        return int(torch.multinomial(odds, 1, generator=self.generator))

    def save(self, path: str | Path) -> None:
        """Write all that is needed to go on with exactly the same tokens elsewhere; the file appears whole or not."""
        extra = {"logits": self.logits, "generator": self.generator.get_state()}
        State(self.state.prefixed("model") | State(extra).prefixed("session")).save(path)

    @classmethod
    def load(cls, model: LanguageModel, path: str | Path) -> Session:
        """Continue a saved session. Raises InputError if the file is not one of this model's."""
        saved, session = State.load(path), cls(model)
        state, own = saved.under("model"), saved.under("session")
        expected = {name: value.shape for name, value in session.state.items()}
        if {name: value.shape for name, value in state.items()} != expected or set(own) != {"logits", "generator"}:
            raise InputError(f"session file {str(path)!r} belongs to another model; expected states {list(expected)}")
        if own["logits"].shape != session.logits.shape:
            raise InputError(f"session file {str(path)!r} holds logits {describe(own['logits'])}: another vocabulary")
        device = session.logits.device
        session.state, session.logits = state.to(device), own["logits"].to(device)
        session.generator.set_state(own["generator"])
        return session
