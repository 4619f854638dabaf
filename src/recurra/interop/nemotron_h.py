"""Checkpoints of Nemotron-H: blocks of Mamba-2, attention, MLPs with squared ReLU, or experts beside such an MLP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recurra.errors import InputError
from recurra.interop import hybrid
from recurra.interop.family import Family, head, tied_head
from recurra.interop.hybrid import held
from recurra.interop.rules import Rule, rule
from recurra.options import shown

DEFAULTS = {
    "vocab_size": 131072, "hidden_size": 4096, "layers_block_type": None, "hybrid_override_pattern": None,
    "num_hidden_layers": 1, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
    "intermediate_size": 21504, "mlp_bias": False, "ssm_state_size": 128, "mamba_num_heads": 128,
    "mamba_head_dim": 64, "n_groups": 8, "conv_kernel": 4, "use_conv_bias": True, "n_routed_experts": 8,
    "moe_intermediate_size": 7688, "moe_shared_expert_intermediate_size": 7688, "moe_latent_size": None,
    "num_experts_per_tok": 2, "routed_scaling_factor": 1.0, "n_group": 1, "topk_group": 1, "norm_topk_prob": True,
    "layer_norm_epsilon": 1e-5, "time_step_min": 0.001, "residual_in_fp32": False, "tie_word_embeddings": False,
}  # fmt: skip
LETTERS = {"M": "linear_attention", "E": "moe", "*": "full_attention", "-": "mlp"}
KINDS = (
    dict.fromkeys(hybrid.RECURRENT, "mamba2")
    | dict.fromkeys(hybrid.ATTENTIVE, "attention")
    | {"mlp": "mlp", "moe": "experts|mlp@shared"}
)


def kinds(config: Mapping[str, Any]) -> list[str]:
    """What each layer holds; the number of layers is that of the kinds. Raises InputError for one that is not known."""
    given = config["layers_block_type"]
    if given is None and isinstance(letters := config["hybrid_override_pattern"], str):
        if unknown := set(letters) - set(LETTERS):
            raise InputError(f"config.json has {shown(min(unknown))} in hybrid_override_pattern; expected M, E, * or -")
        given = [LETTERS[letter] for letter in letters]
    many = len(given) if isinstance(given, list) else 0
    return hybrid.kinds({"num_hidden_layers": many}, "layers_block_type", given, KINDS)


def _mamba2(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "state_size": config["ssm_state_size"], "head_size": config["mamba_head_dim"], "groups": config["n_groups"],
        "inner": config["mamba_num_heads"] * config["mamba_head_dim"], "kernel": config["conv_kernel"],
        "conv_bias": config["use_conv_bias"], "eps": config["layer_norm_epsilon"],
        "least_dt": config["time_step_min"],  # they read no other limit
    }  # fmt: skip


def model(config: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a `LanguageModel`. Nothing turns."""
    plain = {"gated": False, "activation": "relu-squared"}
    experts = {
        "hidden": config["moe_intermediate_size"], "experts": config["n_routed_experts"], "score": "sigmoid",
        "active": config["num_experts_per_tok"], "normalised": config["norm_topk_prob"], "correction": True,
        "scale": config["routed_scaling_factor"], "groups": config["n_group"], "active_groups": config["topk_group"],
        "latent": config["moe_latent_size"], **plain,
    }  # fmt: skip
    shared = config["moe_shared_expert_intermediate_size"]
    layers = {
        "mamba2": _mamba2(config),
        "attention": hybrid.attention(config),
        "mlp": {"hidden": config["intermediate_size"], "bias": config["mlp_bias"], **plain},
        "experts": experts,
        "mlp@shared": {"hidden": shared, "bias": config["mlp_bias"], **plain},
    }
    float32 = config["residual_in_fp32"]
    return hybrid.model(config, kinds(config), layers, eps=config["layer_norm_epsilon"], float32_residual=float32)


def rules(config: Mapping[str, Any]) -> list[Rule]:
    """Every tensor of a Nemotron-H. A layer there is one block here."""
    result = [rule("embedding.weight", "backbone.embeddings.weight"), rule("norm.weight", "backbone.norm_f.weight")]
    result += head(config, "lm_head.weight")
    for i, kind in enumerate(kinds(config)):
        result.append(rule(f"blocks.{i}.recurrence_norm.weight", f"backbone.layers.{i}.norm.weight"))
        at = held(i), f"backbone.layers.{i}.mixer."
        if kind == "mamba2":
            result += hybrid.mamba2_rules(_mamba2(config), at)
        elif kind == "attention":
            result += hybrid.attention_rules(at)
        elif kind == "mlp":
            result += hybrid.mlp_rules(at, "", bias=config["mlp_bias"])
        else:
            result += _experts(config, i)
    return result


def _experts(config: Mapping[str, Any], i: int) -> list[Rule]:
    at, latent = (held(i, 0), f"backbone.layers.{i}.mixer."), config["moe_latent_size"]
    hidden, inner = config["moe_intermediate_size"], latent or config["hidden_size"]
    result = hybrid.expert_rules(at, config["n_routed_experts"], hidden, inner, "gate.weight", "up_proj")
    result.append(rule("correction", "gate.e_score_correction_bias", at=at))
    if latent:
        result.append(rule("to_latent.weight", "fc1_latent_proj.weight", at=at))
        result.append(rule("from_latent.weight", "fc2_latent_proj.weight", at=at))
    at = held(i, 1), f"backbone.layers.{i}.mixer.shared_experts."
    return result + hybrid.mlp_rules(at, "", bias=config["mlp_bias"])


NEMOTRON_H = Family(
    defaults=DEFAULTS,
    only={
        "mlp_hidden_act": ["relu2"], "mamba_hidden_act": ["silu"], "use_bias": [False], "mamba_proj_bias": [False],
        "attention_bias": [False], "sliding_window": [None], "num_nextn_predict_layers": [0],
        "time_step_limit": hybrid.UNLIMITED,
    },
    model=model,
    rules=rules,
    ignored=tied_head("lm_head.weight"),
)  # fmt: skip
