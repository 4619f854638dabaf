"""Maps whose matrix is block-diagonal: each group of channels, one after another, by a matrix of its own."""

import torch
from torch import Tensor, nn


def by_blocks(x: Tensor, weight: Tensor) -> Tensor:
    """[..., blocks in] by a block-diagonal matrix [blocks, out, in]: [..., blocks out]."""
    each = torch.einsum("...ni,noi->...no", x.unflatten(-1, (weight.shape[0], -1)), weight.to(x.dtype))
    return each.flatten(-2)


class BlockLinear(nn.Module):
    """A linear map by blocks, [..., inputs] to [..., outputs]; weight: [blocks, outputs / blocks, inputs / blocks]."""

    def __init__(self, blocks: int, inputs: int, outputs: int, bias: bool):
        super().__init__()
        bound = (inputs // blocks) ** -0.5
        self.weight = nn.Parameter(torch.empty(blocks, outputs // blocks, inputs // blocks).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(outputs).uniform_(-bound, bound)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """x [..., inputs] to [..., outputs]."""
        y = by_blocks(x, self.weight)
        return y if self.bias is None else y + self.bias.to(x.dtype)
