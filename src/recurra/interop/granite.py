"""Checkpoints of Granite 4: Mamba-2 and some attention, with experts beside an MLP, or an MLP alone, behind each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recurra.interop import hybrid
from recurra.interop.family import Family, tied_head
from recurra.interop.hybrid import held
from recurra.interop.rules import Rule, rule

DEFAULTS = {
    "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": None, "rms_norm_eps": 1e-6, "tie_word_embeddings": False,
    "attention_bias": False, "embedding_multiplier": 1.0, "logits_scaling": 1.0, "residual_multiplier": 1.0,
    "attention_multiplier": 1.0, "num_local_experts": 8, "num_experts_per_tok": 2, "shared_intermediate_size": 1024,
    "position_embedding_type": None, "layer_types": None, "mamba_n_heads": 128, "mamba_n_groups": 1,
    "mamba_d_state": 256, "mamba_d_head": "auto", "mamba_d_conv": 4, "mamba_expand": 2, "mamba_conv_bias": True,
    **hybrid.NO_ROPE_SCALING,
}  # fmt: skip
KINDS = dict.fromkeys(hybrid.RECURRENT, "mamba2") | dict.fromkeys(hybrid.ATTENTIVE, "attention")


def kinds(config: Mapping[str, Any]) -> list[str]:
    """What each layer holds. Raises InputError for a kind that is not known."""
    given = config["layer_types"] or ["mamba"] * config["num_hidden_layers"]
    return hybrid.kinds(config, "layer_types", given, KINDS)


def _mamba2(config: Mapping[str, Any]) -> dict[str, Any]:
    return hybrid.mamba2(config, eps=config["rms_norm_eps"])


def model(config: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a `LanguageModel`."""
    gain, bias = {"gain": config["residual_multiplier"]}, config["attention_bias"]
    turning = hybrid.rope(config, hybrid.head_size(config)) if config["position_embedding_type"] == "rope" else {}
    experts = {
        "hidden": config["intermediate_size"],
        "experts": config["num_local_experts"],
        "active": config["num_experts_per_tok"],
    }
    attention = hybrid.attention(
        config, bias=bias, output_bias=bias, scale=config["attention_multiplier"], **turning, **gain
    )
    layers = {
        "mamba2": _mamba2(config) | gain,
        "attention": attention,
        "experts": experts | gain,
        "mlp": {"hidden": config["shared_intermediate_size"], **gain},
    }
    mixing = "experts|mlp" if config["num_local_experts"] else "mlp"
    blocks = [name for kind in kinds(config) for name in (kind, mixing)]
    made = hybrid.model(config, blocks, layers, eps=config["rms_norm_eps"], head_scale=1 / config["logits_scaling"])
    made["design"]["scale"] = config["embedding_multiplier"]
    return made


def rules(config: Mapping[str, Any]) -> list[Rule]:
    """Every tensor of a Granite."""
    result = hybrid.around(config, hybrid.LLAMA, ("input_layernorm", "post_attention_layernorm"))
    part, bias = None if config["residual_multiplier"] == 1 else 0, config["attention_bias"]
    for i, kind in enumerate(kinds(config)):
        layer, mixing = f"model.layers.{i}.", part
        if kind == "mamba2":
            result += hybrid.mamba2_rules(_mamba2(config), (held(2 * i, part), f"{layer}mamba."))
        else:
            result += hybrid.attention_rules((held(2 * i, part), f"{layer}self_attn."), bias, bias)
        if config["num_local_experts"]:
            mixing, at = 1, (held(2 * i + 1, 0), f"{layer}block_sparse_moe.")
            result.append(rule("to_scores.weight", "router.layer.weight", at=at))
            result.append(rule("to_hidden", "input_linear.weight", at=at))
            result.append(rule("to_output", "output_linear.weight", at=at))
        at = held(2 * i + 1, mixing), f"{layer}shared_mlp."
        result += hybrid.mlp_rules(at, "", "input_linear", "output_linear")
    return result


GRANITE = Family(
    defaults=DEFAULTS,
    only={
        "hidden_act": ["silu"], "mamba_proj_bias": [False], "time_step_limit": hybrid.UNLIMITED,
        "position_embedding_type": [None, "rope", "nope"],
    },
    model=model,
    rules=rules,
    ignored=tied_head("lm_head.weight"),
)  # fmt: skip
