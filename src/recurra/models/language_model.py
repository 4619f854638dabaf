"""A language model from any mix of recurrences: embedding, residual blocks, head."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from recurra import beside, check, options
from recurra.errors import InputError
from recurra.models.backbone import Backbone, Normed
from recurra.models.design import Design
from recurra.models.fed import EMBEDDED
from recurra.models.origin import Origin
from recurra.nn.linear import Linear, linear
from recurra.options import shown
from recurra.registry import from_a_file
from recurra.state import State, joined

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from recurra.streaming.session import Session


class Scores(Normed):
    """The last part of a language model, called as layers are: a norm, the head, a cap."""

    def __init__(self, norm: nn.Module, head: nn.Module, soft_cap: float | None, scale: float = 1.0):
        super().__init__(norm)
        self.head, self.soft_cap, self.scale = head, soft_cap, scale

    def forward(self, x: Tensor, state: Mapping[str, Tensor], engine: str = "auto") -> tuple[Tensor, dict]:  # noqa: ARG002
        """What flows out of the blocks, [B, T, D], to logits [B, T, vocabulary] and no state."""
        return self.scored(self.normed(x)), {}

    def normed(self, x: Tensor) -> Tensor:
        """What the head reads, [B, T, D]."""
        held = check.representative(self.head)
        return self.norm(x if held is None else x.to(held.dtype))

    def scored(self, normed: Tensor) -> Tensor:
        """Logits [B, T, vocabulary] of what `normed` gives."""
        logits = self.head(normed) if self.scale == 1 else self.scale * self.head(normed)
        return logits if self.soft_cap is None else self.soft_cap * torch.tanh(logits / self.soft_cap)


class TiedHead(nn.Module):
    """The head whose matrix is the embedding's."""

    def __init__(self, weight: Tensor):
        super().__init__()
        self.weight = weight

    def forward(self, x: Tensor) -> Tensor:
        """x [..., D] to its products with the embedding's rows, [..., vocabulary]."""
        return linear(x, self.weight)


class LanguageModel(Backbone):
    """Predicts the next token: a `Backbone` with an embedding in front and a head behind.

    Args:
        vocabulary: number of tokens; 256 for bytes.
        width: channels between blocks.
        pattern: which recurrence each block holds, such as "mamba*3+lstm".
        mlp: hidden width of the gated MLPs; by default twice the width; 0 leaves them out.
        dropout: of what each block adds, while training.
        layers: options of recurrences, by the name they have in the pattern: {"mamba": {"state_size": 8}}.
        design: norms, head and the like, a `Design` or its fields; the default is what suits most.

    Raises:
        InputError: an argument is out of range, or the pattern names no known layers.
    """

    embeds = True
    origin: Origin | None = None
    """What came with the model when it was read from a folder of transformers; saved and converted with it."""

    def __init__(
        self,
        vocabulary: int = 256,
        width: int = 256,
        pattern: str = "min-gru*2",
        *,
        mlp: int | None = None,
        dropout: float = 0.0,
        layers: Mapping[str, Mapping[str, Any]] | None = None,
        design: Design | Mapping[str, Any] | None = None,
    ):
        self._vocabulary = options.count("vocabulary", vocabulary)
        super().__init__(width, pattern, mlp=mlp, dropout=dropout, layers=layers, design=design)
        if not self.design.tied:
            self.head: nn.Linear = Linear(width, vocabulary, bias=False)

    def _make_front(self) -> None:
        del self.config["bidirectional"]  # it cannot read what it is to predict
        self.config = {"vocabulary": self._vocabulary} | self.config
        self.scale = self.width**0.5 if self.design.scale is None else self.design.scale
        self.embedding = nn.Embedding(self._vocabulary, self.width)
        nn.init.normal_(self.embedding.weight, std=1 / self.scale)
        if self.design.embedding_norm:
            self.embedding_norm = self.design.make_norm(self.width)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> LanguageModel:
        """Build a fresh model from `config`, a dict as in the attribute of that name.

        Its layers have to be registered: a config, which may come out of a file, imports no code. Raises InputError if
        it is none.
        """
        names = list(inspect.signature(cls).parameters)
        if not isinstance(config, Mapping) or not set(config) <= set(names):
            what = f"holds {sorted(set(config) - set(names))}" if isinstance(config, Mapping) else f"is {shown(config)}"
            raise InputError(f"config {what}; expected a dict with some of {', '.join(names)}")
        with from_a_file():
            return cls(**config)

    def extra_repr(self) -> str:
        return f"{self.config['vocabulary']}, {super().extra_repr()}"

    @property
    def tokenizer(self) -> Tokenizer | None:
        """What turns text into the tokens of this model, if it came with one; None means bytes.

        Raises RecurraError if the `tokenizers` library is missing, InputError if its file is damaged.
        """
        return None if self.origin is None else self.origin.tokenizer

    def forward(
        self,
        tokens: Tensor,
        state: Mapping[str, Tensor] | None = None,
        *,
        resets: Tensor | None = None,
        lengths: Tensor | None = None,
        engine: str = "auto",
        aux: bool = False,
        **named: Tensor | None,
    ) -> tuple[Any, ...]:
        """Scores of the next token after each.

        Args:
            tokens: [B, T] int64, 0 to vocabulary - 1.
            state, resets, lengths, engine, aux: as for a layer.
            named: inputs beside the tokens, [B, T, ...] each, for the blocks that take them.

        Returns:
            logits [B, T, vocabulary] and the State after the last token; with `aux` also what blocks give beside.

        Raises:
            InputError: an argument does not fit.
        """
        x, carried = self._begin(tokens, state)
        y, after, more = self._run(x, carried, resets, lengths, engine, self._given(x, tokens, lengths, named), aux)
        return (y, after, more) if aux else (y, after)

    walked = forward
    """What a walk through tokens may do in its place (see `recurra.streaming`)."""

    def with_hidden_states(
        self,
        tokens: Tensor,
        state: Mapping[str, Tensor] | None = None,
        *,
        resets: Tensor | None = None,
        lengths: Tensor | None = None,
        engine: str = "auto",
        **named: Tensor | None,
    ) -> tuple[Tensor, tuple[Tensor, ...], State]:
        """A call that also gives what flows through the model, for probes and the like.

        Arguments and errors are those of a call.

        Returns:
            logits [B, T, vocabulary]; the hidden states, [B, T, D] each: what flows into the first block, then out of
            each, the last one after the model's norm, as the head reads it; the State after the last token.
        """
        x, carried = self._begin(tokens, state)
        hidden, after, given = [x], [], self._given(x, tokens, lengths, named)
        for i in range(len(self.blocks)):
            x, new = self._through(i, x, carried, resets, lengths, engine, given)
            hidden.append(x)
            after.append(new)
        hidden[-1] = self._last.normed(x)
        return self._last.scored(hidden[-1]), tuple(hidden), joined(self._names(), after)

    @property
    def beside(self) -> Mapping[str, bool]:
        """As `Layer.beside`, of all blocks, but for what the model gives them itself."""
        return {name: needed for name, needed in super().beside.items() if name != EMBEDDED}

    def _given(
        self, x: Tensor, tokens: Tensor, lengths: Tensor | None, named: Mapping[str, Tensor | None]
    ) -> dict[str, Tensor]:
        """What blocks are given beside what flows through them: what came beside the tokens, looked at, and x, what
        flows into the first, for those that read it."""
        known = dict(super().beside)
        embedded = {EMBEDDED: x} if known.pop(EMBEDDED, False) else {}
        given = beside.named("this model", known, named)
        if not given:
            return embedded
        lengths = check.lengths(lengths, tokens)
        valid = None if lengths is None else torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]
        return beside.at_steps(given, tokens.shape[:2], tokens.device, valid) | embedded

    def _begin(self, tokens: Tensor, state: Mapping[str, Tensor] | None) -> tuple[Tensor, list[State] | None]:
        """What flows into the blocks, and the state of each."""
        self._check(tokens)
        x = self._enter(self.embedding(tokens))
        return x, check.parts("this model", state, self._names())

    def _enter(self, rows: Tensor) -> Tensor:
        """What flows into the blocks, from rows of the embedding."""
        x = rows * self.scale
        if self.design.embedding_norm:
            x = self.embedding_norm(x)
        return self._held(x)

    @property
    def _last(self) -> Scores:
        known = vars(self).get("_head", (None,))[0]
        head = self._tied(known) if self.design.tied else self.head
        if known is None or known.norm is not self.norm or known.head is not head:
            known = Scores(self.norm, head, self.design.soft_cap, self.design.head_scale)
            vars(self)["_head"] = (known,)
        return known

    def _tied(self, known: Scores | None) -> nn.Module:
        """The head of the weight that the embedding has now, which may be the one that is known."""
        weight = getattr(self.embedding, "weight", None)
        if not isinstance(weight, Tensor):
            raise InputError(
                f"the embedding is a {type(self.embedding).__name__}, whose weight is no tensor; the head, tied to it, "
                "needs one: make the model with design={'tied': False}"
            )
        return known.head if known is not None and known.head.weight is weight else TiedHead(weight)

    @property
    def _like(self) -> Tensor:
        """A tensor of the type of the scores, on the device of the tokens."""
        own = None if self.design.tied else check.representative(self.head)
        own = check.representative(self) if own is None else own
        return torch.empty(0) if own is None else own

    def advance(
        self, token: Tensor, state: Mapping[str, Tensor] | None = None, **named: Tensor | None
    ) -> tuple[Tensor, State]:
        """One token per sequence, [B] int64, and what is given beside, [B, ...], to logits [B, vocabulary] and the next
        state."""
        if not isinstance(token, Tensor) or token.dim() != 1:
            raise InputError(f"token is {check.describe(token)}; expected [B] int64: one token per sequence")
        logits, after = beside.one_step(self, token, state, **named)
        return logits, after

    def stream(self, state: Mapping[str, Tensor] | None = None, seed: int = 0) -> Session:
        """A session that takes and gives tokens one by one in constant memory, from `state` (of one sequence) on."""
        from recurra.streaming.session import Session

        return Session(self, seed, state=state)

    def _check(self, tokens: Tensor) -> None:
        vocabulary = self.config["vocabulary"]
        if not isinstance(tokens, Tensor) or tokens.dim() != 2 or tokens.dtype != torch.int64:
            raise InputError(f"tokens is {check.describe(tokens)}; expected [B, T] int64")
        if tokens.device != (own := self._like.device):
            raise InputError(f"tokens is on {tokens.device}, the model on {own}: move one")
        if tokens.numel() and not torch.compiler.is_compiling():
            seen = check.unwrapped(tokens)
            low, high = (int(v) for v in seen.aminmax()) if seen.numel() > 1 else 2 * (int(seen),)
            if low < 0 or high >= vocabulary:
                raise InputError(f"tokens holds {low if low < 0 else high}; expected 0 to {vocabulary - 1}")
