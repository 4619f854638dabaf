"""How well a model predicts text it has not seen."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn

from recurra import options
from recurra.data.text import as_tensor
from recurra.errors import InputError
from recurra.models.language_model import LanguageModel
from recurra.models.origin import tokenizing
from recurra.training.carry import carried

CONTEXT = 512
"""Tokens read before a piece, unscored, so that it does not start cold."""
SCORES = 2**26
"""Scores computed at once, at most."""
STRIDE = 256
"""Tokens read in one call of the model."""


@torch.no_grad()
def bits_per_byte(
    model: LanguageModel,
    text: bytes,
    engine: str = "auto",
    pieces: int = 32,
    progress: Callable[[int, int], None] | None = None,
) -> float:
    """Mean bits per byte of `text`, every byte but the first scored once.

    A model that has a tokenizer reads the text, which must be UTF-8, as its tokens, none of them special. Scored is
    what follows the first token, or, if that ends inside a character, what follows the first that does not: the bits of
    its tokens in all are divided by its bytes.

    The text is read as `pieces` streams side by side, the state carried along each; all but the first begin
    `CONTEXT` tokens before their piece. `pieces=1` reads it as a single stream. A layer whose state grows without
    bound, such as attention, looks at `STRIDE` tokens at a time.

    Args:
        progress: called with (tokens read so far, tokens in all) of every stream.

    Raises:
        InputError: the text leaves nothing to score, or is no text to the tokenizer; an argument is of another type.
    """
    options.instance("model", model, LanguageModel)
    options.instance("text", text, bytes)
    options.count("pieces", pieces)
    if progress is not None:
        options.function("progress", progress)
    read, first, size = _tokens(model, text)
    if len(read) <= first or size < 1:
        raise InputError(
            f"text to evaluate on holds {len(text)} byte(s), in {len(read)} token(s); expected at least 2 tokens, and "
            "more than the first character"
        )
    pieces = max(1, min(pieces, len(read) // (2 * CONTEXT), SCORES // (STRIDE * model.config["vocabulary"])))
    tokens, scored = _pieces(read, first, pieces)
    last, total, state = tokens.shape[1] - 1, 0.0, None
    was_training = model.training
    model.eval()
    try:
        for at in range(0, last, STRIDE):
            window = tokens[:, at : at + STRIDE + 1].long()
            logits, state = model(window[:, :-1], state, engine=engine)
            state = carried(model, state, len(window))
            losses = nn.functional.cross_entropy(logits.flatten(0, 1), window[:, 1:].flatten(), reduction="none")
            total += float(losses[scored[:, at + 1 : at + STRIDE + 1].flatten()].double().sum())
            if progress:
                progress(min(at + STRIDE, last), last)
    finally:
        model.train(was_training)
    return total / size / math.log(2)


def _tokens(model: LanguageModel, text: bytes) -> tuple[Tensor, int, int]:
    """The text as tokens [T] of the model, how many come before those that are scored, and the bytes of the latter."""
    if model.tokenizer is None:
        return as_tensor(text), 1, len(text) - 1
    from tokenizers import Tokenizer

    try:
        characters = text.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"text is not UTF-8, as the model's tokenizer needs it: {error}") from error
    # What comes after tokenizing may take spaces out of the places of tokens.
    plain = dict.fromkeys(("truncation", "padding", "post_processor"))
    with tokenizing("turn the text into tokens"):
        whole = Tokenizer.from_str(json.dumps(json.loads(model.tokenizer.to_str()) | plain))
        found = whole.encode(characters, add_special_tokens=False)
    # Tokens that share a character have places that overlap.
    cuts = (i for i, (one, next_) in enumerate(pairwise(found.offsets), 1) if next_[0] >= one[1])
    first = next(cuts, len(found.ids))
    end = found.offsets[first - 1][1] if found.ids else 0
    return torch.tensor(found.ids, dtype=torch.int64), first, len(characters[end:].encode())


def _pieces(text: Tensor, first: int, pieces: int) -> tuple[Tensor, Tensor]:
    """The text in rows [pieces, T], the ends padded, and which of its tokens, from the `first` on, are scored in which
    row."""
    size = math.ceil(len(text) / pieces)
    starts = [max(0, i * size - CONTEXT) for i in range(pieces)]
    ends = [min(len(text), (i + 1) * size) for i in range(pieces)]
    longest = max(end - start for start, end in zip(starts, ends, strict=True))
    tokens = torch.zeros(pieces, longest, dtype=text.dtype)
    scored = torch.zeros(pieces, longest, dtype=torch.bool)
    for i, (start, end) in enumerate(zip(starts, ends, strict=True)):
        tokens[i, : end - start] = text[start:end]
        scored[i, max(first, i * size) - start : end - start] = True
    return tokens, scored
