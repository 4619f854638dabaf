"""Names for layers: what the command line, the laws and the documents read. One line each."""

from __future__ import annotations

import inspect
from difflib import get_close_matches
from importlib import import_module
from typing import TYPE_CHECKING, Any

from recurra.contract import Layer
from recurra.errors import InputError
from recurra.options import count, flag

if TYPE_CHECKING:
    from recurra.models.stacked import Stacked

REGISTRY = {
    "rnn": "rnn.RNN",
    "lstm": "lstm.LSTM",
    "gru": "gru.GRU",
    "min-gru": "min_gru.MinGRU",
    "min-lstm": "min_lstm.MinLSTM",
    "lru": "lru.LRU",
    "mamba": "mamba.Mamba",
    "falcon-mamba": "falcon_mamba.FalconMamba",
    "rg-lru": "rg_lru.RGLRU",
    "griffin": "griffin.Griffin",
    "slstm": "slstm.SLSTM",
    "diagonal-gru": "diagonal_gru.DiagonalGRU",
    "diagonal-lstm": "diagonal_lstm.DiagonalLSTM",
    "delta-net": "delta_net.DeltaNet",
    "gated-delta-net": "gated_delta_net.GatedDeltaNet",
    "delta-product": "delta_product.DeltaProduct",
    "rwkv4": "rwkv4.RWKV4",
    "rwkv4-channel-mix": "rwkv4_channel_mix.RWKV4ChannelMix",
    "rwkv7": "rwkv7.RWKV7",
    "ttt-linear": "ttt.TTTLinear",
    "ttt-mlp": "ttt.TTTMLP",
    "titans": "titans.Titans",
    "atlas": "atlas.Atlas",
    "moneta": "moneta.Moneta",
    "yaad": "yaad.Yaad",
    "memora": "memora.Memora",
    "mamba2": "mamba2.Mamba2",
    "mlstm": "mlstm.MLSTM",
    "xlstm-7b": "xlstm_7b.XLSTM7B",
    "gla": "gla.GLA",
    "retnet": "retnet.RetNet",
    "linear-attention": "linear_attention.LinearAttention",
    "hgrn2": "hgrn2.HGRN2",
    "hgrn": "hgrn.HGRN",
    "based": "based.Based",
    "s4d": "s4d.S4D",
    "s5": "s5.S5",
    "dss": "dss.DSS",
    "lmu": "lmu.LMU",
    "aaren": "aaren.Aaren",
    "attention": "attention/causal.CausalAttention",
    "local-attention": "attention/causal.LocalAttention",
    "forgetting-attention": "attention/forgetting.ForgettingAttention",
    "rat": "attention/rat.RAT",
}
"""Public name -> file and class, in `recurra.recurrences` where no other folder is named."""


def layers() -> dict[str, type[Layer]]:
    """Every registered layer: name -> class."""
    return {name: _load(where) for name, where in REGISTRY.items()}


def layer_class(name: str) -> type[Layer]:
    """The class registered under `name`; case, hyphens and underscores do not matter."""
    plain = {_plain(known): where for known, where in REGISTRY.items()}
    if not isinstance(name, str) or _plain(name) not in plain:
        close = get_close_matches(str(name).lower(), REGISTRY, 3, 0.5)
        hint = (
            f"did you mean {' or '.join(close)}?" if close else f"expected one such as {', '.join(list(REGISTRY)[:3])};"
        )
        raise InputError(f"layer {name!r} is not known; {hint} `recurra layers` lists all {len(REGISTRY)}")
    return _load(plain[_plain(name)])


def layer(
    name: str, width: int, *, num_layers: int = 1, bidirectional: bool = False, **options: Any
) -> Layer | Stacked:
    """Build the layer registered under `name` for inputs of `width` channels.

    Args:
        num_layers, bidirectional: more than one layer, or both directions, give a `Stacked`.
        options: of the layer's own class.

    Raises:
        InputError: an unknown name, or an option the layer does not have.
    """
    kind = layer_class(name)

    def make(width: int) -> Layer:
        return kind(width, **options)

    known = _options_of(kind)
    if strange := [key for key in options if key not in known]:
        listed = ", ".join(f"{key}={default!r}" for key, default in known.items()) or "none"
        raise InputError(f"layer {name!r} has no option {strange[0]!r}; its options and their defaults are {listed}")
    if count("num_layers", num_layers) == 1 and not flag("bidirectional", bidirectional):
        return make(width)
    from recurra.models.stacked import Stacked

    return Stacked(make, width, num_layers, bidirectional)


def _load(where: str) -> type[Layer]:
    module, name = where.split(".")
    folder, _, file = module.rpartition("/")
    return getattr(import_module(f"recurra.{folder or 'recurrences'}.{file}"), name)


def _options_of(kind: type[Layer]) -> dict[str, Any]:
    """What a layer takes besides its width, with defaults; one that passes options on has those of its base too."""
    known: dict[str, Any] = {}
    for init in (vars(owner)["__init__"] for owner in kind.__mro__ if "__init__" in vars(owner)):
        _, _, *parameters = inspect.signature(init).parameters.values()
        known |= {p.name: p.default for p in parameters if p.kind is not p.VAR_KEYWORD and p.name not in known}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return known


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")
