"""Checkpoints of Ling 3 (`bailing_hybrid`): Kimi delta attention, some latent attention, an MLP or experts behind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recurra.interop import hybrid, kimi_linear
from recurra.interop.family import Family, tied_head
from recurra.interop.hybrid import held
from recurra.interop.rules import Rule, rule, rules_of
from recurra.options import LAYERS, count, whole

DEFAULTS = {
    "vocab_size": 157184, "hidden_size": 2560, "intermediate_size": 6144, "moe_intermediate_size": 768,
    "num_hidden_layers": 42, "num_attention_heads": 32, "num_experts": 512, "num_experts_per_token": 8,
    "num_shared_experts": 1, "num_expert_group": 8, "topk_group": 4, "routed_scaling_factor": 2.5,
    "moe_renormalize": True, "first_k_dense_replace": 2, "rms_norm_eps": 1e-6, "tie_word_embeddings": False,
    "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "head_dim": 128,
    "short_conv_kernel_size": 4, "layer_group_size": 6, "kda_safe_gate": True, "kda_lower_bound": -5.0,
    "layer_types": None, "mlp_layer_types": None, "num_nextn_predict_layers": 0, **hybrid.NO_ROPE_SCALING,
}  # fmt: skip
ALSO = {
    "num_local_experts": "num_experts", "num_experts_per_tok": "num_experts_per_token", "n_group": "num_expert_group",
    "n_shared_experts": "num_shared_experts", "norm_topk_prob": "moe_renormalize",
}  # fmt: skip
"""Other names of fields, which published checkpoints have."""
NAMES = hybrid.LLAMA | {"embedding": "model.word_embeddings.weight"}


def _complete(config: Mapping[str, Any]) -> dict[str, Any]:
    return {**config, **{ours: config[theirs] for theirs, ours in ALSO.items() if theirs in config}}


def _kinds(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    group = count("layer_group_size", config["layer_group_size"])
    usual = ["linear_attention" if (i + 1) % group else "full_attention" for i in range(config["num_hidden_layers"])]
    return kimi_linear.with_channels(config, usual)


def _delta_options(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "heads": config["num_attention_heads"], "size": config["head_dim"], "kernel": config["short_conv_kernel_size"],
        "norm_eps": config["rms_norm_eps"], "gate_bias": False, "full_rank": True,
        "lower_bound": config["kda_lower_bound"] if config["kda_safe_gate"] else None,
    }  # fmt: skip


def model(config: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a `LanguageModel`."""
    config = _complete(config)
    turning = hybrid.rope(config, config["qk_rope_head_dim"], 6e6)
    latent = {"base": turning["base"], "gated": True}
    return kimi_linear.model_of(config, _kinds(config), _delta_options(config), latent)


def rules(config: Mapping[str, Any]) -> list[Rule]:
    """Every tensor of a Ling 3."""
    config = _complete(config)
    result = hybrid.around(config, NAMES, ("input_layernorm", "post_attention_layernorm"))
    for i, (time, channels) in enumerate(_kinds(config)):
        at = held(2 * i), f"model.layers.{i}.attention."
        result += _delta(config, at) if time == "kimi-delta-attention" else _latent(config, at)
        names = "mlp", "gate_proj up_proj", "down_proj", "gate.expert_bias"
        result += kimi_linear.channel_rules(config, i, channels, *names)
    return result


def _delta(config: Mapping[str, Any], at: hybrid.At) -> list[Rule]:
    inner = config["num_attention_heads"] * config["head_dim"]
    names = {
        "to_decay.weight": "f_proj.weight", "dt_bias": "dt_bias", "A_log": "A_log", "to_gate.weight": "g_proj.weight",
        "to_beta.weight": "b_proj.weight", "norm_weight": "o_norm.weight", "to_output.weight": "dense.weight",
        "to_qkv.weight": "q_proj.weight k_proj.weight v_proj.weight",
    }  # fmt: skip
    convs, shape = "q_conv1d.weight k_conv1d.weight v_conv1d.weight", (inner, 1, config["short_conv_kernel_size"])
    return [*rules_of(names, at), rule("conv_weight", convs, shape, at)]


def _latent(config: Mapping[str, Any], at: hybrid.At) -> list[Rule]:
    """In theirs neighbouring channels turn together, in ours those that are half of all apart."""
    plain, turning = config["qk_nope_head_dim"], config["qk_rope_head_dim"]
    lie = [*range(0, turning, 2), *range(1, turning, 2)]
    size, latent = plain + turning, config["kv_lora_rank"]
    head = [*range(plain), *(plain + channel for channel in lie)]
    names = {
        "norm.weight": "kv_a_layernorm.weight", "to_heads.weight": "kv_b_proj.weight",
        "to_gate.weight": "g_proj.weight", "to_output.weight": "dense.weight",
    }  # fmt: skip
    queries = tuple(size * i + channel for i in range(config["num_attention_heads"]) for channel in head)
    kept = (*range(latent), *(latent + channel for channel in lie))
    return [
        *rules_of(names, at),
        rule("to_query.weight", "q_proj.weight", at=at, rows=queries),
        rule("to_latent.weight", "kv_a_proj_with_mqa.weight", at=at, rows=kept),
    ]


def _ignored(config: Mapping[str, Any]) -> list[str]:
    """A tied head, and layers behind the last that predict further tokens."""
    further = whole("num_nextn_predict_layers", config["num_nextn_predict_layers"], high=LAYERS)
    behind = [f"model.layers.{config['num_hidden_layers'] + i}." for i in range(further)]
    return tied_head("lm_head.weight")(config) + behind


BAILING_HYBRID = Family(
    defaults=DEFAULTS,
    only={"hidden_act": ["silu"], "q_lora_rank": [None], "attention_bias": [False]},
    model=model,
    rules=rules,
    ignored=_ignored,
)
