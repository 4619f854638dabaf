"""How well a model predicts text it has not seen."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

from recurra.errors import InputError
from recurra.models.language_model import LanguageModel


@torch.no_grad()
def bits_per_byte(
    model: LanguageModel,
    text: bytes,
    engine: str = "auto",
    pieces: int = 32,
    progress: Callable[[int, int], None] | None = None,
) -> float:
    """Mean bits per byte of `text`.

    The text is read as `pieces` streams side by side. Each but the first begins 512 bytes before its piece, unscored,
    so that it does not start cold; the first has its first byte unscored.

    Args:
        progress: called with (bytes read so far, bytes in all) of every stream.

    Raises:
        InputError: the text is shorter than two bytes.
    """
    if len(text) < 2:
        raise InputError(f"text to evaluate on holds {len(text)} byte(s); expected at least 2")
    pieces = max(1, min(pieces, len(text) // 1024))
    size, context = math.ceil(len(text) / pieces), 512 if pieces > 1 else 0
    starts = [max(0, i * size - context) for i in range(pieces)]
    ends = [min(len(text), (i + 1) * size) for i in range(pieces)]
    longest = max(e - s for s, e in zip(starts, ends, strict=True))
    tokens = torch.zeros(pieces, longest, dtype=torch.int64)
    scored = torch.zeros(pieces, longest, dtype=torch.bool)
    for i, (start, end) in enumerate(zip(starts, ends, strict=True)):
        tokens[i, : end - start] = torch.tensor(list(text[start:end]))
        scored[i, max(1, i * size - start) : end - start] = True
    was_training, total, state = model.training, 0.0, None
    model.eval()
    for at in range(0, longest - 1, 256):
        window = tokens[:, at : at + 257]
        logits, state = model(window[:, :-1], state, engine=engine)
        losses = nn.functional.cross_entropy(logits.flatten(0, 1), window[:, 1:].flatten(), reduction="none")
        total += float(losses[scored[:, at + 1 : at + 257].flatten()].double().sum())
        if progress:
            progress(min(at + 256, longest - 1), longest - 1)
    model.train(was_training)
    return total / int(scored.sum()) / math.log(2)
