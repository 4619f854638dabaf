"""Checkpoints of LFM2: gated short convolutions and some attention, with an MLP or experts behind each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recurra.interop import hybrid
from recurra.interop.family import Family, tied_head
from recurra.interop.hybrid import held
from recurra.interop.rules import Rule, rule

DENSE = {
    "vocab_size": 65536, "hidden_size": 2560, "intermediate_size": 12288, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "norm_eps": 1e-5, "tie_word_embeddings": True,
    "conv_bias": False, "conv_L_cache": 3, "block_multiple_of": 256, "block_ffn_dim_multiplier": 1.0,
    "block_auto_adjust_ff_dim": True, "full_attn_idxs": None, "layer_types": None, "num_experts": 0,
    "num_dense_layers": 0, **hybrid.NO_ROPE_SCALING,
}  # fmt: skip
SPARSE = DENSE | {
    "hidden_size": 2048, "intermediate_size": 7168, "moe_intermediate_size": 1792, "num_dense_layers": 2,
    "num_experts_per_tok": 4, "num_experts": 32, "use_expert_bias": True, "routed_scaling_factor": 1.0,
    "norm_topk_prob": True, "block_auto_adjust_ff_dim": False,
}  # fmt: skip
KINDS = {"conv": "short-conv"} | dict.fromkeys(hybrid.ATTENTIVE, "attention")
NAMES = hybrid.LLAMA | {"norm": "model.embedding_norm.weight"}


def kinds(config: Mapping[str, Any]) -> list[str]:
    """What each layer holds to mix over time. Raises InputError for a kind that is not known."""
    layers, given = range(config["num_hidden_layers"]), config["layer_types"]
    if given is None:
        attentive = layers if config["full_attn_idxs"] is None else config["full_attn_idxs"]
        given = ["full_attention" if i in attentive else "conv" for i in layers]
    return hybrid.kinds(config, "layer_types", given, KINDS)


def _sparse(config: Mapping[str, Any], i: int) -> bool:
    return config["num_experts"] > 0 and i >= config["num_dense_layers"]


def _hidden(config: Mapping[str, Any]) -> int:
    """Of the MLPs."""
    hidden = config["intermediate_size"]
    if config["block_auto_adjust_ff_dim"]:
        hidden, multiple = int(2 * hidden / 3), config["block_multiple_of"]
        if config["block_ffn_dim_multiplier"] is not None:
            hidden = multiple * -(-int(config["block_ffn_dim_multiplier"] * hidden) // multiple)
    return hidden


def model(config: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a `LanguageModel`."""
    eps, turning = config["norm_eps"], hybrid.rope(config, hybrid.head_size(config), 1e6)
    layers = {
        "short-conv": {"kernel": config["conv_L_cache"], "bias": config["conv_bias"]},
        "attention": hybrid.attention(config, **turning, qk_norm="head", norm_eps=eps),
        "mlp": {"hidden": _hidden(config)},
    }
    if config["num_experts"]:
        layers["experts"] = {
            "hidden": config["moe_intermediate_size"], "experts": config["num_experts"], "score": "sigmoid",
            "active": config["num_experts_per_tok"], "normalised": config["norm_topk_prob"], "eps": 1e-6,
            "correction": config["use_expert_bias"], "scale": config["routed_scaling_factor"],
        }  # fmt: skip
    channels = ["experts" if _sparse(config, i) else "mlp" for i in range(config["num_hidden_layers"])]
    blocks = [name for both in zip(kinds(config), channels, strict=True) for name in both]
    return hybrid.model(config, blocks, layers, eps=eps)


def rules(config: Mapping[str, Any]) -> list[Rule]:
    """Every tensor of an LFM2."""
    result = hybrid.around(config, NAMES, ("operator_norm", "ffn_norm"))
    for i, kind in enumerate(kinds(config)):
        layer = f"model.layers.{i}."
        if kind == "attention":
            at = held(2 * i), f"{layer}self_attn."
            result += hybrid.attention_rules(at, output="out_proj")
            result += [rule(f"{own}.weight", f"{own[0]}_layernorm.weight", at=at) for own in ("query_norm", "key_norm")]
        else:
            result += conv_rules(config, (held(2 * i), f"{layer}conv."))
        at = held(2 * i + 1), f"{layer}feed_forward."
        if _sparse(config, i):
            sizes = config["num_experts"], config["moe_intermediate_size"], config["hidden_size"]
            result += hybrid.expert_rules(at, *sizes, "gate.weight", "w1 w3", "w2")
            result += [rule("correction", "expert_bias", at=at)] if config["use_expert_bias"] else []
        else:
            result += hybrid.mlp_rules(at, "w1", "w3", "w2")
    return result


def conv_rules(config: Mapping[str, Any], at: hybrid.At) -> list[Rule]:
    """A gated short convolution."""
    maps = {"to_inner": "in_proj", "to_output": "out_proj"}
    result = [rule(f"{ours}.weight", f"{theirs}.weight", at=at) for ours, theirs in maps.items()]
    result.append(rule("conv_weight", "conv.weight", (config["hidden_size"], 1, config["conv_L_cache"]), at))
    if config["conv_bias"]:
        result += [rule(f"{ours}.bias", f"{theirs}.bias", at=at) for ours, theirs in maps.items()]
        result.append(rule("conv_bias", "conv.bias", at=at))
    return result


def _family(defaults: Mapping[str, Any]) -> Family:
    return Family(defaults=defaults, only={}, model=model, rules=rules, ignored=tied_head("lm_head.weight"))


LFM2, LFM2_MOE = _family(DENSE), _family(SPARSE)
