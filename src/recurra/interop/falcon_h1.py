"""Checkpoints of Falcon-H1: Mamba-2 and attention side by side, then an MLP; and numbers that multiply all of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recurra.errors import InputError
from recurra.interop import hybrid
from recurra.interop.family import Family, tied_head
from recurra.interop.hybrid import held
from recurra.interop.rules import Rule

DEFAULTS = {
    "vocab_size": 128000, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "rms_norm_eps": 1e-5, "head_dim": None,
    "mamba_d_ssm": None, "mamba_n_heads": 128, "mamba_d_head": "auto", "mamba_n_groups": 1, "mamba_d_state": 256,
    "mamba_d_conv": 4, "mamba_expand": 2, "mamba_conv_bias": True, "mamba_rms_norm": False,
    "attention_bias": False, "mlp_bias": False, "tie_word_embeddings": False, "lm_head_multiplier": 1.0,
    "embedding_multiplier": 1.0, "mlp_multipliers": [1.0, 1.0], "key_multiplier": 1.0, "attention_out_multiplier": 1.0,
    "attention_in_multiplier": 1.0, "ssm_multipliers": [1.0] * 5, "ssm_in_multiplier": 1.0, "ssm_out_multiplier": 1.0,
    "mamba_norm_before_gate": True, **hybrid.NO_ROPE_SCALING,
}  # fmt: skip
NAMES = hybrid.LLAMA | {"norm": "model.final_layernorm.weight"}


def _mamba2(config: Mapping[str, Any]) -> dict[str, Any]:
    multipliers = [config["ssm_in_multiplier"] * one for one in config["ssm_multipliers"]]
    return hybrid.mamba2(
        config,
        inner=config["mamba_d_ssm"],
        eps=config["rms_norm_eps"],
        multipliers=multipliers,
        normed=config["mamba_rms_norm"],
    )


def model(config: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a `LanguageModel`. What multiplies the inputs of linear maps multiplies their outputs here.

    Raises InputError for a norm in front of a gate.
    """
    if config["mamba_rms_norm"] and config["mamba_norm_before_gate"]:
        raise InputError("config.json has mamba_norm_before_gate = True; only False can be read with mamba_rms_norm")
    size, read = hybrid.head_size(config), config["attention_in_multiplier"]
    gate, down = config["mlp_multipliers"]
    attention = hybrid.attention(
        config,
        scale=size**-0.5 * read**2 * config["key_multiplier"],
        gain=read * config["attention_out_multiplier"],
        **hybrid.rope(config, size),
    )
    layers = {
        "mamba2": _mamba2(config) | {"gain": config["ssm_out_multiplier"]},
        "attention": attention,
        "mlp": {"hidden": config["intermediate_size"], "bias": config["mlp_bias"], "gate_scale": gate, "gain": down},
    }
    blocks = ["mamba2|attention", "mlp"] * config["num_hidden_layers"]
    made = hybrid.model(config, blocks, layers, eps=config["rms_norm_eps"], head_scale=config["lm_head_multiplier"])
    made["design"]["scale"] = config["embedding_multiplier"]
    return made


def rules(config: Mapping[str, Any]) -> list[Rule]:
    """Every tensor of a Falcon-H1."""
    result = hybrid.around(config, NAMES, ("input_layernorm", "pre_ff_layernorm"))
    part = None if config["mlp_multipliers"][1] == 1 else 0
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        result += hybrid.mamba2_rules(_mamba2(config), (held(2 * i, 0), f"{layer}mamba."))
        result += hybrid.attention_rules((held(2 * i, 1), f"{layer}self_attn."))
        result += hybrid.mlp_rules((held(2 * i + 1, part), f"{layer}feed_forward."), bias=config["mlp_bias"])
    return result


FALCON_H1 = Family(
    defaults=DEFAULTS,
    only={
        "hidden_act": ["silu"], "mamba_proj_bias": [False], "projectors_bias": [False], "attention_bias": [False],
        "time_step_limit": hybrid.UNLIMITED,
    },
    model=model,
    rules=rules,
    ignored=tied_head("lm_head.weight"),
)  # fmt: skip
