"""A language model from any mix of recurrences: embedding, residual blocks, tied head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from recurra.check import describe
from recurra.errors import InputError
from recurra.models.block import Block
from recurra.models.pattern import parse
from recurra.state import State

if TYPE_CHECKING:
    from recurra.streaming.session import Session


class LanguageModel(nn.Module):
    """Predicts the next token.

    Args:
        vocabulary: number of tokens; 256 for bytes.
        width: channels between blocks.
        pattern: which recurrence each block holds, such as "mamba*3+lstm".
        mlp: hidden width of the gated MLPs; by default twice the width.
        dropout: of what each block adds, while training.

    Raises:
        InputError: an argument is out of range, or the pattern names no known layers.
    """

    def __init__(
        self,
        vocabulary: int = 256,
        width: int = 256,
        pattern: str = "min-gru*2",
        *,
        mlp: int | None = None,
        dropout: float = 0.0,
    ):
        super().__init__()
        mlp = 2 * width if mlp is None else mlp
        for name, value in (("vocabulary", vocabulary), ("width", width), ("mlp", mlp)):
            if type(value) is not int or value < 1:
                raise InputError(f"{name} is {value!r}; expected a positive int")
        if not isinstance(dropout, int | float) or not 0 <= dropout < 1:
            raise InputError(f"dropout is {dropout!r}; expected 0 or more, below 1")
        self.config: dict[str, Any] = {
            "vocabulary": vocabulary, "width": width, "pattern": pattern, "mlp": mlp, "dropout": dropout,
        }  # fmt: skip
        self.embedding = nn.Embedding(vocabulary, width)
        nn.init.normal_(self.embedding.weight, std=width**-0.5)
        self.blocks = nn.ModuleList(Block(name, width, mlp, dropout) for name in parse(pattern))
        self.norm = nn.RMSNorm(width, eps=1e-6)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> LanguageModel:
        """Build a fresh model from `config`, a dict as in the attribute of that name."""
        return cls(**config)

    def initial_state(self, batch: int) -> State:
        """The state before the first token; names start with `blocks.<number>`."""
        state = State()
        for i, block in enumerate(self.blocks):
            assert isinstance(block, Block)
            state |= block.recurrence.initial_state(batch).prefixed(f"blocks.{i}")
        return State(state)

    def forward(
        self,
        tokens: Tensor,
        state: Mapping[str, Tensor] | None = None,
        *,
        resets: Tensor | None = None,
        lengths: Tensor | None = None,
        engine: str = "auto",
    ) -> tuple[Tensor, State]:
        """Scores of the next token after each.

        Args:
            tokens: [B, T] int64, 0 to vocabulary - 1.
            state, resets, lengths, engine: as for a layer.

        Returns:
            logits [B, T, vocabulary] and the State after the last token.

        Raises:
            InputError: an argument does not fit.
        """
        self._check(tokens, state)
        x = nn.functional.embedding(tokens, self.embedding.weight) * self.config["width"] ** 0.5
        carried, out = None if state is None else State(state), State()
        for i, block in enumerate(self.blocks):
            own = None if carried is None else carried.under(f"blocks.{i}")
            x, new = block(x, own, resets=resets, lengths=lengths, engine=engine)
            out |= new.prefixed(f"blocks.{i}")
        return nn.functional.linear(self.norm(x), self.embedding.weight), State(out)

    def advance(self, token: Tensor, state: Mapping[str, Tensor] | None = None) -> tuple[Tensor, State]:
        """One token per sequence, [B] int64, to logits [B, vocabulary] and the next state."""
        if not isinstance(token, Tensor) or token.dim() != 1:
            raise InputError(f"token is {describe(token)}; expected [B] int64: one token per sequence")
        logits, after = self(token[:, None], state)
        return logits[:, 0], after

    def stream(self, state: Mapping[str, Tensor] | None = None, seed: int = 0) -> Session:
        """A session that takes and gives tokens one by one in constant memory, from `state` (of one sequence) on."""
        from recurra.streaming.session import Session

        return Session(self, seed, state=state)

    def _check(self, tokens: Tensor, state: Mapping[str, Tensor] | None) -> None:
        vocabulary = self.config["vocabulary"]
        if not isinstance(tokens, Tensor) or tokens.dim() != 2 or tokens.dtype != torch.int64:
            raise InputError(f"tokens is {describe(tokens)}; expected [B, T] int64")
        if tokens.device != self.embedding.weight.device:
            raise InputError(f"tokens is on {tokens.device}, the model on {self.embedding.weight.device}: move one")
        if state is not None and not isinstance(state, Mapping):
            raise InputError(f"state is {describe(state)}; expected the State that this model returned, or None")
        ours = tuple(f"blocks.{i}." for i in range(len(self.blocks)))
        if strange := [name for name in state or () if not name.startswith(ours)]:
            raise InputError(f"state holds {strange}, but the model has {len(ours)} block(s): is it another model's?")
        if tokens.numel() and not torch.compiler.is_compiling():
            low, high = (int(v) for v in tokens.aminmax())
            if low < 0 or high >= vocabulary:
                raise InputError(f"tokens holds {low if low < 0 else high}; expected 0 to {vocabulary - 1}")
