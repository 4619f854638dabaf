"""Sounds as cepstra."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from recurra import options
from recurra.errors import InputError


class Mfcc(nn.Module):
    """Frames of a sound, [..., size], to mel-frequency cepstral coefficients, [..., coefficients]. `Patches` in front
    of it makes frames of [B, samples, 1].

    The power spectrum of the frame under a Hann window; its sum under each of `filters` triangles, evenly spread on the
    mel scale m = 2595 log10(1 + f / 700); the logarithm; an orthonormal cosine transform.

    Source: Comparison of Parametric Representations for Monosyllabic Word Recognition, Davis, Mermelstein, 1980, IEEE
    Transactions on Acoustics, Speech, and Signal Processing 28.

    Args:
        rate: samples in a second.
        size: samples in a frame.
        filters, coefficients: how many there are of each.
    """

    def __init__(self, rate: float, size: int, filters: int = 26, coefficients: int = 13):
        super().__init__()
        self.rate, self.size = options.number("rate", rate, 1), options.count("size", size)
        options.count("filters", filters)
        options.count("coefficients", coefficients, filters + 1)
        self.window: Tensor
        self.triangles: Tensor
        self.cosines: Tensor
        self.register_buffer("window", torch.hann_window(size), persistent=False)
        self.register_buffer("triangles", mel_triangles(rate, size, filters), persistent=False)
        self.register_buffer("cosines", cosines(filters, coefficients), persistent=False)

    def forward(self, frames: Tensor) -> Tensor:
        """Raises InputError if frames are of another size."""
        if frames.shape[-1] != self.size:
            raise InputError(f"frames are {list(frames.shape)}; expected [..., {self.size}], as size says")
        power = torch.fft.rfft(frames * self.window).abs().square() / self.size
        return (power @ self.triangles).clamp(min=1e-10).log() @ self.cosines


def mel_triangles(rate: float, size: int, filters: int) -> Tensor:
    """[size // 2 + 1, filters]: how much each filter takes of each frequency."""
    highest = 2595 * math.log10(1 + rate / 2 / 700)
    edges = 700 * (10 ** (torch.linspace(0, highest, filters + 2, dtype=torch.float64) / 2595) - 1)
    frequency = torch.arange(size // 2 + 1, dtype=torch.float64)[:, None] * rate / size
    rising = (frequency - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - frequency) / (edges[2:] - edges[1:-1])
    return torch.minimum(rising, falling).clamp(min=0).to(torch.get_default_dtype())


def cosines(filters: int, coefficients: int) -> Tensor:
    """[filters, coefficients] of the orthonormal cosine transform."""
    places = (torch.arange(filters, dtype=torch.float64)[:, None] + 0.5) * torch.arange(coefficients)
    matrix = (math.pi / filters * places).cos() * math.sqrt(2 / filters)
    matrix[:, 0] /= math.sqrt(2)
    return matrix.to(torch.get_default_dtype())
