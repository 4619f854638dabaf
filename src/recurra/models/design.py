"""What published language models do differently around their recurrences."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from recurra import options
from recurra.errors import InputError
from recurra.pointwise import RMSNorm, RMSNormFromOne

NORMS = ("rms", "layer", "rms-from-one")
ACTIVATIONS = ("silu", "gelu-tanh")


@dataclass(frozen=True)
class Design:
    """The parts of a language model that are neither its pattern nor its sizes; the defaults are ours.

    Raises InputError if a field is none of what it may be.
    """

    norm: str = "rms"
    """`rms`; `layer`; `rms-from-one`, whose weight is added to one, as in Gemma."""
    eps: float = 1e-6
    """Added to the mean square, or the variance, in every norm."""
    embedding_norm: bool = False
    """A norm follows the embedding, as in RWKV."""
    scale: float | None = None
    """What embeddings are multiplied by; by default the square root of the width."""
    activation: str = "silu"
    """Of the gated MLPs: `silu` or `gelu-tanh`."""
    mlp_bias: bool = False
    """The linear maps of the MLPs have biases."""
    tied: bool = False
    """The head's matrix is that of the embedding, the weight as it stands there: an adapter around the embedding does
    not reach the head. It saves memory where the vocabulary is large; over bytes, models learn much faster without."""
    soft_cap: float | None = None
    """Logits are bent into (-c, c) by c tanh(logits / c); by default they are not."""
    head_scale: float = 1.0
    """What logits are multiplied by, before they are bent."""
    float32_residual: bool = False
    """In a model of a half type, what flows past the blocks is float32."""

    def __post_init__(self) -> None:
        options.choice("norm", self.norm, NORMS)
        options.choice("activation", self.activation, ACTIVATIONS)
        options.number("eps", self.eps, 0)
        options.number("head_scale", self.head_scale, -options.MOST)
        for name in ("embedding_norm", "mlp_bias", "tied", "float32_residual"):
            options.flag(name, getattr(self, name))
        for name in ("scale", "soft_cap"):
            value = getattr(self, name)
            if value is not None and not options.number(name, value, 0):
                raise InputError(f"{name} is {value!r}; expected a positive number, or None")

    def make_norm(self, width: int) -> nn.Module:
        """The norm over `width` channels."""
        kind = {"rms": RMSNorm, "layer": nn.LayerNorm, "rms-from-one": RMSNormFromOne}[self.norm]
        return kind(width, eps=self.eps)

    def activate(self, x: Tensor) -> Tensor:
        """The activation of the gated MLPs."""
        return nn.functional.silu(x) if self.activation == "silu" else nn.functional.gelu(x, approximate="tanh")
