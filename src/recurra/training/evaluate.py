"""How well a model predicts text it has not seen."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from recurra.data.text import as_tensor
from recurra.errors import InputError
from recurra.models.language_model import LanguageModel
from recurra.training.carry import carried

CONTEXT = 512
"""Bytes read before a piece, unscored, so that it does not start cold."""
STRIDE = 256
"""Bytes read in one call of the model."""


@torch.no_grad()
def bits_per_byte(
    model: LanguageModel,
    text: bytes,
    engine: str = "auto",
    pieces: int = 32,
    progress: Callable[[int, int], None] | None = None,
) -> float:
    """Mean bits per byte of `text`, every byte but the first scored once.

    The text is read as `pieces` streams side by side, the state carried along each; all but the first begin
    `CONTEXT` bytes before their piece. `pieces=1` reads it as a single stream. A layer whose state grows without bound,
    such as attention, looks at `STRIDE` bytes at a time.

    Args:
        progress: called with (bytes read so far, bytes in all) of every stream.

    Raises:
        InputError: the text is shorter than two bytes, or the model does not read bytes.
    """
    if model.tokenizer is not None:
        raise InputError("the model has a tokenizer: its tokens are not bytes, and bits per byte need a model of bytes")
    if len(text) < 2:
        raise InputError(f"text to evaluate on holds {len(text)} byte(s); expected at least 2")
    tokens, scored = _pieces(as_tensor(text), max(1, min(pieces, len(text) // (2 * CONTEXT))))
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
    return total / int(scored.sum()) / math.log(2)


def _pieces(text: Tensor, pieces: int) -> tuple[Tensor, Tensor]:
    """The text in rows [pieces, T], the ends padded, and which of its bytes are scored in which row."""
    size = math.ceil(len(text) / pieces)
    starts = [max(0, i * size - CONTEXT) for i in range(pieces)]
    ends = [min(len(text), (i + 1) * size) for i in range(pieces)]
    longest = max(end - start for start, end in zip(starts, ends, strict=True))
    tokens = torch.zeros(pieces, longest, dtype=torch.uint8)
    scored = torch.zeros(pieces, longest, dtype=torch.bool)
    for i, (start, end) in enumerate(zip(starts, ends, strict=True)):
        tokens[i, : end - start] = text[start:end]
        scored[i, max(1, i * size - start) : end - start] = True
    return tokens, scored
