"""Rotary position embedding: queries and keys turn with their position, so that scores depend on its difference.

Source: RoFormer: Enhanced Transformer with Rotary Position Embedding, Su, Lu, Pan, Murtadha, Wen, Liu, 2021,
arXiv:2104.09864. Channels i and R/2 + i form a pair, as in LLaMA, where the paper pairs neighbours.
"""

from __future__ import annotations

import torch
from torch import Tensor


def angles(position: Tensor, channels: int, base: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """cos and sin of position base^(-2i/R) for i < R/2, R = `channels`: from [B, T] to two [B, T, R/2]."""
    exponent = torch.arange(0, channels, 2, device=position.device, dtype=torch.float64) / max(1, channels)
    angle = position[..., None] * base**-exponent
    return torch.cos(angle).to(dtype), torch.sin(angle).to(dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The first R channels of x [..., K] turned by the angles of cos and sin [..., R/2]; the others as they are."""
    half = cos.shape[-1]
    a, b, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return torch.cat([(a * cos - b * sin).to(x.dtype), (a * sin + b * cos).to(x.dtype), rest], -1)
