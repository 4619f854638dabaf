"""What a session asks of a model: that it takes tokens, with a state, and says how it does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor, nn

from recurra.errors import InputError
from recurra.options import shown
from recurra.state import State


class Streamed(Protocol):
    """A model of tokens; `recurra.LanguageModel` is one."""

    @property
    def config(self) -> dict[str, Any]:
        """With "vocabulary", the number of tokens."""
        ...

    @property
    def embedding(self) -> Any:
        """From tokens to rows."""
        ...

    @property
    def walked(self) -> Any:
        """The `forward` that single steps of its parts may be taken in place of."""
        ...

    @property
    def __call__(self) -> Any:
        """Of tokens [B, T] and a state to scores [B, T, vocabulary] and the new state."""
        ...

    def initial_state(self, batch: int) -> State:
        """The state before the first token."""
        ...

    def _enter(self, rows: Tensor) -> Tensor:
        """What flows into the parts, from rows of the embedding."""
        ...

    def _parts(self) -> Sequence[nn.Module]:
        """What is called one after another on what flows in; the last keeps no state and gives scores."""
        ...

    def _names(self) -> list[str]:
        """What the states of the parts are called in the model's."""
        ...

    @property
    def _like(self) -> Tensor:
        """A tensor of the type of the scores, on the device of the tokens."""
        ...


def streamed(model: object) -> Any:
    """`model`, if it is one. Raises InputError if it is not."""
    asked = ("config", "embedding", "walked", "initial_state", "_enter", "_parts", "_names")
    if isinstance(model, type) or not all(hasattr(model, name) for name in asked):
        raise InputError(f"model is {shown(model)}; expected LanguageModel, or what can be called as one is")
    return model
