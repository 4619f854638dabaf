"""Words by their letters, with convolutions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from recurra import options
from recurra.nn.linear import Linear


class LetterConvolutions(nn.Module):
    """A text, [..., letters] int64 with -1 behind its end, to [..., width]: of each filter the largest that it finds
    anywhere in the word, a highway, and a linear map.

    f = max_t tanh(K e_{t ... t + k - 1} + b) for each reach k,  y = W (g relu(H f) + (1 - g) f),  g = sigmoid(G f).

    Source: Character-Aware Neural Language Models, Kim, Jernite, Sontag, Rush, 2016, arXiv:1508.06615, as Exploring the
    Limits of Language Modeling, Jozefowicz et al., 2016, arXiv:1602.02410 has them in front of projected LSTMs
    (`projected-lstm`).

    Args:
        letters: how many there are; 0 to letters - 1.
        width: of the result.
        filters: of each reach.
        reaches: how many letters filters look at.
        letter_width: of a letter's embedding.
    """

    def __init__(
        self, letters: int, width: int, filters: int = 32, reaches: Sequence[int] = (1, 2, 3, 4), letter_width: int = 16
    ):
        super().__init__()
        self.embedding = nn.Embedding(options.count("letters", letters) + 1, letter_width, padding_idx=0)
        self.convolutions = nn.ModuleList(
            nn.Conv1d(letter_width, options.count("filters", filters), options.count("reaches", k), padding=k - 1)
            for k in reaches
        )
        found = filters * len(self.convolutions)
        self.highway, self.to_output = Linear(found, 2 * found), Linear(found, options.count("width", width))
        nn.init.constant_(self.highway.bias[found:], -2.0)

    def forward(self, text: Tensor) -> Tensor:
        """Of a text without letters, what is made of nothing."""
        flat = text.reshape(math.prod(text.shape[:-1]), text.shape[-1])
        flat = nn.functional.pad(flat, [0, 1], value=-1)  # a word has a place at least, though it may have no letter
        there = flat >= 0
        letters = self.embedding(torch.where(there, flat + 1, 0)).transpose(1, 2)
        found = []
        for convolution in self.convolutions:
            # Padded at both ends; what begins before the first letter is left out.
            at = convolution(letters)[..., convolution.padding[0] :].tanh()  # type: ignore[index]
            found.append(torch.where(there[:, None], at, -1.0).amax(2))
        f = torch.cat(found, -1)
        change, gate = self.highway(f).chunk(2, -1)
        gate = gate.sigmoid()
        return self.to_output(gate * change.relu() + (1 - gate) * f).view(*text.shape[:-1], -1)
