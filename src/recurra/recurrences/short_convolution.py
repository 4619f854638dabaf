"""Short convolutions as an option: of all signals that a layer names, side by side, each channel by itself."""

import torch
from torch import Tensor, nn

from recurra import options
from recurra.windows import Past


def taps(channels: int, kernel: int | None) -> nn.Parameter | None:
    """Weights [channels, kernel] at the start of training; None: there is no convolution."""
    if kernel is None:
        return None
    bound = options.count("kernel", kernel) ** -0.5
    return nn.Parameter(torch.empty(channels, kernel).uniform_(-bound, bound))


def window(weight: nn.Parameter | None) -> dict[str, tuple[int, int]]:
    """What a layer with these weights has for `windows`."""
    return {} if weight is None else {"conv": (weight.shape[0], weight.shape[1] - 1)}


def convolved(past: Past | None, weight: Tensor | None, signals: dict[str, Tensor], *, silu: bool) -> dict[str, Tensor]:
    """The signals [B, T, channels], by name, each channel convolved over time; as they are without weights."""
    if past is None or weight is None:
        return signals
    whole = past.convolve("conv", torch.cat(list(signals.values()), -1), weight, silu=silu)
    return dict(zip(signals, whole.split([t.shape[-1] for t in signals.values()], -1), strict=True))
