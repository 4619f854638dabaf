"""Two inputs: what is made of each, side by side."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recurra import options
from recurra.tasks.chain import at_end


def compared(u: Tensor, v: Tensor) -> Tensor:
    """[..., 4 D]: u, v, |u - v| and u v of [..., D] each.

    Source: Supervised Learning of Universal Sentence Representations, Conneau et al., 2017, arXiv:1705.02364.
    """
    return torch.cat([u, v, (u - v).abs(), u * v], -1)


class Pair(nn.Module):
    """Two sequences, read by one encoder: [B, T, ...] and [B, S, ...] to `compared` of what each ends in, [B, 4 D].

    Args:
        encoder: called as a layer is; its last part may be a pool.
    """

    def __init__(self, encoder: nn.Module):
        super().__init__()
        self.encoder = options.instance("encoder", encoder, nn.Module)

    def encode(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """One of both, [B, D]."""
        return at_end(self.encoder(x, lengths=lengths)[0], lengths)

    def forward(
        self, first: Tensor, second: Tensor, lengths: Tensor | None = None, second_lengths: Tensor | None = None
    ) -> Tensor:
        """[B, 4 D]; `lengths` [B] are those of the first, `second_lengths` of the second."""
        return compared(self.encode(first, lengths), self.encode(second, second_lengths))
