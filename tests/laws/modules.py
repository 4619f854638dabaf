"""Every layer, block and model there is, small, with a call of each: what laws about modules are held over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import recurra
from recurra.check import representative
from recurra.models.backbone import Backbone
from recurra.models.sru_plus_plus import SRUPlusPlus
from recurra.models.titans import MemoryAsContext, MemoryAsGate, MemoryAsLayer, PersistentWindow
from recurra.models.xlstm import XLSTM

WIDTH, TOKENS = 8, 11


@dataclass(frozen=True)
class Kind:
    """How to make a module, and what it is called with."""

    make: Callable[[], nn.Module]
    reads_tokens: bool = False
    streams: bool = True
    tied: tuple[str, ...] = ()
    """Names of parts whose weights others read too."""

    def draw(self, module: nn.Module, time: int = 5) -> Tensor:
        """What the module takes, two sequences of its own dtype."""
        if self.reads_tokens:
            return torch.randint(0, TOKENS, (2, time))
        return torch.randn(2, time, WIDTH, dtype=representative(module).dtype)


def layer(name: str, **options: Any) -> Kind:
    return Kind(lambda: recurra.layer(name, WIDTH, **options))


def language_model(pattern: str, tied: bool = False, **design: Any) -> Kind:
    def make() -> nn.Module:
        return recurra.LanguageModel(TOKENS, WIDTH, pattern, design=design | {"tied": tied})

    return Kind(make, reads_tokens=True, tied=("embedding",) if tied else ())


def attending_sru() -> nn.Module:
    """SRU++, which begins without attending to anything, later on."""
    made = SRUPlusPlus(WIDTH, 4, heads=2)
    nn.init.ones_(made.attention.alpha)
    return made


# Chunks of RAT, segments and windows end within the few time steps of a call.
LAYERS = {name: layer(name, **({"chunk": 2} if name == "rat" else {})) for name in recurra.layers()}
BLOCKS = {
    "forgetting-attention, pro": layer("forgetting-attention", pro=True),
    "stacked": layer("min-gru", num_layers=2),
    "bidirectional": Kind(lambda: recurra.layer("lstm", WIDTH, bidirectional=True), streams=False),
    "backbone": Kind(lambda: Backbone(WIDTH, "gru+mamba")),
    "backbone, both ways": Kind(lambda: Backbone(WIDTH, "lstm", bidirectional=True), streams=False),
    "xlstm": Kind(lambda: XLSTM(WIDTH, "mlstm+slstm", heads=2)),
    "persistent window": Kind(lambda: PersistentWindow(WIDTH, heads=2, window=3)),
    "memory as context": Kind(lambda: MemoryAsContext(WIDTH, heads=2, segment=3)),
    "memory as gate": Kind(lambda: MemoryAsGate(WIDTH, heads=2, window=3)),
    "memory as layer": Kind(lambda: MemoryAsLayer(WIDTH, heads=2, window=3)),
    "sru++": Kind(attending_sru),
}
MODELS = {
    "language model": language_model("rwkv4+attention"),
    "language model, tied": language_model("lstm", tied=True, embedding_norm=True, norm="layer", soft_cap=5.0),
    "language model, residual in float32": language_model("mamba", float32_residual=True, norm="rms-from-one"),
}
ALL = LAYERS | BLOCKS | MODELS
