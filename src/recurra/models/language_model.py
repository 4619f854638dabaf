"""A language model from any mix of recurrences: embedding, residual blocks, tied head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from recurra import registry
from recurra.check import describe
from recurra.errors import InputError
from recurra.models.pattern import parse
from recurra.state import State

if TYPE_CHECKING:
    from recurra.streaming.session import Session


class Block(nn.Module):
    """x + recurrence(norm(x)), then x + gated MLP(norm(x))."""

    def __init__(self, name: str, width: int, mlp: int, dropout: float):
        super().__init__()
        self.recurrence_norm = nn.RMSNorm(width, eps=1e-6)
        self.recurrence = registry.layer(name, width)
        self.mlp_norm = nn.RMSNorm(width, eps=1e-6)
        self.mlp_in = nn.Linear(width, 2 * mlp, bias=False)
        self.mlp_out = nn.Linear(mlp, width, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, state: State | None, **options: Any) -> tuple[Tensor, State]:
        """x [B, T, D] and the recurrence's state to the same."""
        y, state = self.recurrence(self.recurrence_norm(x), state, **options)
        x = x + self.dropout(y)
        gate, value = self.mlp_in(self.mlp_norm(x)).chunk(2, -1)
        return x + self.dropout(self.mlp_out(nn.functional.silu(gate) * value)), state


class LanguageModel(nn.Module):
    """Predicts the next token.

    Args:
        vocabulary: number of tokens; 256 for bytes.
        width: channels between blocks.
        pattern: which recurrence each block holds, such as "mamba*3+lstm".
        mlp: hidden width of the gated MLPs; by default twice the width.
        dropout: of what each block adds, while training.
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
        mlp = mlp or 2 * width
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
        self._check(tokens)
        x = nn.functional.embedding(tokens, self.embedding.weight) * self.config["width"] ** 0.5
        carried, out = None if state is None else State(state), State()
        for i, block in enumerate(self.blocks):
            own = None if carried is None else carried.under(f"blocks.{i}")
            x, new = block(x, own, resets=resets, lengths=lengths, engine=engine)
            out |= new.prefixed(f"blocks.{i}")
        return nn.functional.linear(self.norm(x), self.embedding.weight), State(out)

    def advance(self, token: Tensor, state: Mapping[str, Tensor] | None = None) -> tuple[Tensor, State]:
        """One token per sequence, [B] int64, to logits [B, vocabulary] and the next state."""
        logits, after = self(token[:, None], state)
        return logits[:, 0], after

    def stream(self, seed: int = 0) -> Session:
        """A session that takes and gives tokens one by one in constant memory."""
        from recurra.streaming.session import Session

        return Session(self, seed=seed)

    def _check(self, tokens: Tensor) -> None:
        vocabulary = self.config["vocabulary"]
        if not isinstance(tokens, Tensor) or tokens.dim() != 2 or tokens.dtype != torch.int64:
            raise InputError(f"tokens is {describe(tokens)}; expected [B, T] int64")
        if tokens.numel() and not torch.compiler.is_compiling():
            low, high = (int(v) for v in tokens.aminmax())
            if low < 0 or high >= vocabulary:
                raise InputError(f"tokens holds {low if low < 0 else high}; expected 0 to {vocabulary - 1}")
