"""Checkpoints of Bamba: Mamba-2, some attention, and an MLP behind each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recurra.interop import hybrid
from recurra.interop.family import Family, tied_head
from recurra.interop.hybrid import held
from recurra.interop.rules import Rule

DEFAULTS = {
    "vocab_size": 128000, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "rms_norm_eps": 1e-5, "attn_layer_indices": None,
    "mamba_n_heads": 128, "mamba_d_head": "auto", "mamba_n_groups": 1, "mamba_d_state": 256, "mamba_d_conv": 4,
    "mamba_expand": 2, "mamba_conv_bias": True, "attention_bias": False, "mlp_bias": False,
    "tie_word_embeddings": False, **hybrid.NO_ROPE_SCALING,
}  # fmt: skip
NAMES = hybrid.LLAMA | {"norm": "model.final_layernorm.weight"}


def kinds(config: Mapping[str, Any]) -> list[str]:
    """What each layer holds."""
    attentive = config["attn_layer_indices"] or []
    return ["attention" if i in attentive else "mamba2" for i in range(config["num_hidden_layers"])]


def _mamba2(config: Mapping[str, Any]) -> dict[str, Any]:
    return hybrid.mamba2(config, eps=config["rms_norm_eps"])


def model(config: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a `LanguageModel`."""
    turning = hybrid.rope(config, hybrid.head_size(config), share=0.5)
    bias = config["attention_bias"]
    layers = {
        "mamba2": _mamba2(config),
        "attention": hybrid.attention(config, bias=bias, output_bias=bias, **turning),
        "mlp": {"hidden": config["intermediate_size"], "bias": config["mlp_bias"]},
    }
    blocks = [name for kind in kinds(config) for name in (kind, "mlp")]
    return hybrid.model(config, blocks, layers, eps=config["rms_norm_eps"])


def rules(config: Mapping[str, Any]) -> list[Rule]:
    """Every tensor of a Bamba."""
    result = hybrid.around(config, NAMES, ("input_layernorm", "pre_ff_layernorm"))
    for i, kind in enumerate(kinds(config)):
        layer, bias = f"model.layers.{i}.", config["attention_bias"]
        if kind == "mamba2":
            result += hybrid.mamba2_rules(_mamba2(config), (held(2 * i), f"{layer}mamba."))
        else:
            result += hybrid.attention_rules((held(2 * i), f"{layer}self_attn."), bias, bias)
        result += hybrid.mlp_rules((held(2 * i + 1), f"{layer}feed_forward."), bias=config["mlp_bias"])
    return result


BAMBA = Family(
    defaults=DEFAULTS,
    only={"hidden_act": ["silu"], "mamba_proj_bias": [False], "time_step_limit": hybrid.UNLIMITED},
    model=model,
    rules=rules,
    ignored=tied_head("lm_head.weight"),
)
