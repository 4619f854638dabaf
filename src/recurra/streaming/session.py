"""A session: a model, the state it is in, and the dice it throws."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import count as endless
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recurra import options
from recurra.errors import InputError, RecurraError, one_line
from recurra.state import State
from recurra.streaming.contract import Streamed, streamed
from recurra.streaming.walk import TokenWalk

PIECE = 1024
"""Tokens read in one call of the model."""
FEW = 8
"""Tokens that are sooner read one by one, where each is one launch: a call of the model costs as much as several."""


class Session:
    """Takes and gives tokens one by one. Its memory does not grow with what it has read, unless the model holds a
    layer whose state grows: attention without a window.

    Args:
        model: put into evaluation mode by the caller, if it has dropout.
        seed: of the random choice of tokens.
        state: of one sequence, to go on from; by default nothing has been read.

    Raises:
        InputError: an argument is something else; of the state, its names, shapes and dtypes are looked at.
    """

    def __init__(self, model: Streamed, seed: int = 0, *, state: Mapping[str, Tensor] | None = None):
        self.model = streamed(model)
        self.generator = torch.Generator().manual_seed(_seed(seed))
        like = model._like
        self.logits = torch.zeros(model.config["vocabulary"], dtype=like.dtype, device=like.device)
        self._walk: TokenWalk | None = None
        self._lock = threading.RLock()
        self.state = model.initial_state(1) if state is None else self._fitting(state)

    @property
    def state(self) -> State:
        """Of one sequence, after all that has been read; yours to keep, and to set."""
        with self._lock:
            if self._walk is not None:
                self._state, self._walk = self._walk.end(), None
            return self._state

    @state.setter
    def state(self, state: State) -> None:
        with self._lock:
            self._state, self._walk = state, None

    def __getstate__(self) -> dict[str, Any]:
        """What copies are made of: they share neither a walk nor the dice."""
        dice = torch.Generator()
        dice.set_state(self.generator.get_state())
        own = {name: value for name, value in vars(self).items() if name != "_lock"}
        return own | {"_state": self.state, "_walk": None, "generator": dice}

    def __setstate__(self, own: dict[str, Any]) -> None:
        vars(self).update(own, _lock=threading.RLock())

    @torch.no_grad()
    def _fitting(self, state: Mapping[str, Tensor]) -> State:
        """`state`, once the model has looked at it; it is given no token."""
        try:
            self.model(torch.empty(1, 0, dtype=torch.int64, device=self.logits.device), state)
        except InputError as error:
            raise InputError(f"{error}; expected the state of one sequence, such as state.rows(0)") from error
        return State(state)

    @torch.no_grad()
    def feed(self, tokens: bytes | Tensor | Iterable[int]) -> Tensor:
        """Read tokens and return the scores of the next one, [vocabulary].

        Args:
            tokens: bytes, integers one after another, however many, or int64 [T].

        Raises:
            InputError: something that is not a token of this model; the session is then as it was before.
        """
        if isinstance(tokens, str):
            raise InputError("tokens is a str; expected bytes or integers: use text.encode()")
        with self._lock:
            return self._feed(tokens)

    def _feed(self, tokens: bytes | Tensor | Iterable[int]) -> Tensor:
        if isinstance(tokens, tuple | bytes | list) and len(tokens) == 1 and self._walked(tokens):
            return self.logits
        before = self.state, self.logits
        listed = tokens.tolist() if isinstance(tokens, Tensor) else tokens
        if not isinstance(listed, Iterable):
            raise InputError(
                f"tokens is {listed!r}; expected bytes or integers one after another, such as [{listed!r}]"
            )
        sequence = iter(listed)
        try:
            while piece := list(islice(sequence, PIECE)):
                if len(piece) > FEW or not self._walked(piece):
                    logits, self.state = self.model(self._batch(piece), self.state)
                    self.logits = logits[0, -1].clone()
        except BaseException:
            self.state, self.logits = before
            raise
        return self.logits

    def _walked(self, tokens: Sequence[Any]) -> bool:
        """Whether all of these are tokens, and each could be read in one launch; if not, nothing has happened."""
        vocabulary = self.model.config["vocabulary"]
        if not all(type(token) is int and 0 <= token < vocabulary for token in tokens):
            return False
        walk = self._walk or TokenWalk.start(self.model, self._state)
        logits = None if walk is None else walk.step(tokens)
        if logits is None:
            return False
        self._walk, self.logits = walk, logits
        return True

    def generate(
        self, count: int | None = None, temperature: float = 1.0, top_k: int | None = None, seed: int | None = None
    ) -> Iterator[int]:
        """Draw tokens one after another, each fed back; `count` of them, or without end.

        Args:
            temperature: above 1 bolder, below 1 more cautious; 0 always takes the likeliest.
            top_k: only the k likeliest tokens are drawn from.
            seed: start the dice anew; without it they go on from where they are.

        Raises:
            InputError: an argument is of another type or out of range.
            RecurraError: the model's scores are not finite.
        """
        check_choices(count, temperature, top_k)
        if seed is not None:
            self.generator.manual_seed(_seed(seed))
        return self._generate(count, float(temperature), top_k)

    def _generate(self, count: int | None, temperature: float, top_k: int | None) -> Iterator[int]:
        for _ in endless() if count is None else range(count):
            token = self._draw(temperature, top_k)
            self.feed((token,))
            yield token

    def _batch(self, piece: list[int]) -> Tensor:
        """[1, T] of what should be tokens; the model looks at dtype and range."""
        try:
            return torch.tensor([piece], device=self.logits.device)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"tokens holds {piece[0]!r}; expected bytes or integers") from error

    def _draw(self, temperature: float, top_k: int | None) -> int:
        logits = self.logits.float().cpu()
        if not all(map(math.isfinite, logits.aminmax())):
            raise RecurraError("the model's scores are not finite: its weights or the state it was given hold NaN")
        if temperature == 0:
            return int(logits.argmax())
        if top_k is not None and top_k < len(logits):
            logits = torch.where(logits < logits.topk(top_k).values[-1], float("-inf"), logits)
        odds = torch.softmax((logits - logits.max()) / temperature, -1)
        return int(torch.multinomial(odds, 1, generator=self.generator))

    def save(self, path: str | Path) -> None:
        """Write all that is needed to go on with exactly the same tokens elsewhere; the file appears whole or not."""
        self._all().save(path)

    @classmethod
    def load(cls, model: Streamed, path: str | Path) -> Session:
        """Continue a saved session. Raises InputError if the file is not one, or not one of this model's."""
        saved, session = State.load(path), cls(model)
        own, expected = _kinds(saved.under("session")), _kinds(session._own())
        state = saved.under("model").to(session.logits.device)
        try:
            if own != expected:
                wrong = sorted(name for name in own | expected if own.get(name) != expected.get(name))
                raise InputError(f"{', '.join(wrong)} differ(s)")
            session.state = session._fitting(state)
        except InputError as error:
            raise InputError(f"session file {str(path)!r} belongs to another model: {error}") from error
        try:
            session.generator.set_state(saved["session.generator"])
        except RuntimeError as error:
            raise InputError(f"session file {str(path)!r} is damaged: {one_line(error)}") from error
        session.logits = saved["session.logits"].to(session.logits.device)
        return session

    def _all(self) -> State:
        return State(self.state.prefixed("model") | self._own().prefixed("session"))

    def _own(self) -> State:
        return State({"logits": self.logits, "generator": self.generator.get_state()})


def check_choices(count: object, temperature: object, top_k: object) -> None:
    """Arguments of `Session.generate`. Raises InputError if one is none."""
    if count is not None:
        options.whole("count", count)
    options.number("temperature", temperature, 0)
    if top_k is not None:
        options.count("top_k", top_k)


def _seed(seed: object) -> int:
    return options.whole("seed", seed, -(2**63), 2**64)


def _kinds(tensors: Mapping[str, Tensor]) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (value.shape, value.dtype) for name, value in tensors.items()}
