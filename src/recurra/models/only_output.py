"""A layer that gives y alone, as `torch.nn.Sequential` expects it of its parts."""

from __future__ import annotations

from typing import Any

from torch import nn

from recurra import options


class OnlyOutput(nn.Module):
    """`OnlyOutput(layer)(x, ...)` is `layer(x, ...)[0]`: no state comes out."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = options.instance("layer", layer, nn.Module)

    def forward(self, x: Any, *args: Any, **named: Any) -> Any:
        """y of a call of the layer with the same arguments."""
        return self.layer(x, *args, **named)[0]
