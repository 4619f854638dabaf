"""Checkpoints of Jamba: Mamba with norms inside, some attention, and an MLP or experts behind each."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from recurra.interop import hybrid
from recurra.interop.family import Family, tied_head
from recurra.interop.hybrid import held
from recurra.interop.rules import Rule, rule

DEFAULTS = {
    "vocab_size": 65536, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "rms_norm_eps": 1e-6, "tie_word_embeddings": False,
    "num_experts_per_tok": 2, "num_experts": 16, "expert_layer_period": 2, "expert_layer_offset": 1,
    "attn_layer_period": 8, "attn_layer_offset": 4, "mamba_d_state": 16, "mamba_d_conv": 4, "mamba_expand": 2,
    "mamba_dt_rank": "auto", "mamba_conv_bias": True, "mamba_proj_bias": False,
}  # fmt: skip
NAMES = hybrid.LLAMA | {"norm": "model.final_layernorm.weight"}


def kinds(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What each layer holds to mix over time, and to mix channels."""
    result = []
    for i in range(config["num_hidden_layers"]):
        attentive = i % config["attn_layer_period"] == config["attn_layer_offset"]
        expert = config["num_experts"] > 1 and i % config["expert_layer_period"] == config["expert_layer_offset"]
        result.append(("attention" if attentive else "falcon-mamba", "experts" if expert else "mlp"))
    return result


def model(config: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a `LanguageModel`. Nothing turns."""
    rank, eps = config["mamba_dt_rank"], config["rms_norm_eps"]
    mamba = {
        "state_size": config["mamba_d_state"], "expand": config["mamba_expand"], "kernel": config["mamba_d_conv"],
        "rank": math.ceil(config["hidden_size"] / 16) if rank == "auto" else rank, "bias": config["mamba_proj_bias"],
        "conv_bias": config["mamba_conv_bias"], "eps": eps, "weighted": True,
    }  # fmt: skip
    experts = {
        "hidden": config["intermediate_size"],
        "experts": config["num_experts"],
        "active": config["num_experts_per_tok"],
        "normalised": False,
    }
    layers = {
        "falcon-mamba": mamba,
        "attention": hybrid.attention(config),
        "mlp": {"hidden": config["intermediate_size"]},
        "experts": experts,
    }
    return hybrid.model(config, [name for both in kinds(config) for name in both], layers, eps=eps)


def rules(config: Mapping[str, Any]) -> list[Rule]:
    """Every tensor of a Jamba."""
    result = hybrid.around(config, NAMES, ("input_layernorm", "pre_ff_layernorm"))
    for i, (time, channels) in enumerate(kinds(config)):
        layer = f"model.layers.{i}."
        if time == "attention":
            result += hybrid.attention_rules((held(2 * i), f"{layer}self_attn."))
        else:
            result += _mamba(config, (held(2 * i), f"{layer}mamba."))
        at = held(2 * i + 1), f"{layer}feed_forward."
        if channels == "mlp":
            result += hybrid.mlp_rules(at)
        else:
            wide, width = config["intermediate_size"], config["hidden_size"]
            result += hybrid.expert_rules(at, config["num_experts"], wide, width, "router.weight")
    return result


def _mamba(config: Mapping[str, Any], at: hybrid.At) -> list[Rule]:
    inner = config["mamba_expand"] * config["hidden_size"]
    names = {"to_inner": "in_proj", "to_selection": "x_proj", "to_dt": "dt_proj", "to_output": "out_proj"}
    result = [rule(f"{ours}.weight", f"{theirs}.weight", at=at) for ours, theirs in names.items()]
    biased = ["to_dt", *(["to_inner", "to_output"] if config["mamba_proj_bias"] else [])]
    result += [rule(f"{ours}.bias", f"{names[ours]}.bias", at=at) for ours in biased]
    result += [rule(name, name, at=at) for name in ("A_log", "D")]
    result.append(rule("conv_weight", "conv1d.weight", (inner, 1, config["mamba_d_conv"]), at))
    if config["mamba_conv_bias"]:
        result.append(rule("conv_bias", "conv1d.bias", at=at))
    return result + [
        rule(f"norm_weights.{k}", f"{name}_layernorm.weight", at=at) for k, name in enumerate(["dt", "b", "c"])
    ]


JAMBA = Family(
    defaults=DEFAULTS,
    only={"hidden_act": ["silu"]},
    model=model,
    rules=rules,
    ignored=tied_head("lm_head.weight"),
)
