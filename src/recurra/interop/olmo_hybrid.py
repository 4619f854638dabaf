"""Checkpoints of OLMo Hybrid: gated delta nets, some attention, and an MLP behind each.

Norms stand before gated delta nets and their MLPs, and after attention and its MLPs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recurra.interop import hybrid
from recurra.interop.family import Family, head, tied_head
from recurra.interop.hybrid import held
from recurra.interop.rules import Rule, interleaved, rule

DEFAULTS = {
    "vocab_size": 100352, "hidden_size": 3840, "intermediate_size": 11008, "num_hidden_layers": 32,
    "num_attention_heads": 30, "num_key_value_heads": None, "rms_norm_eps": 1e-6, "tie_word_embeddings": False,
    "attention_bias": False, "layer_types": None, "linear_num_key_heads": None, "linear_num_value_heads": None,
    "linear_key_head_dim": None, "linear_value_head_dim": None, "linear_conv_kernel_dim": 4,
    "linear_allow_neg_eigval": True, **hybrid.NO_ROPE_SCALING,
}  # fmt: skip
KINDS = dict.fromkeys(hybrid.RECURRENT, "gated-delta-net") | dict.fromkeys(hybrid.ATTENTIVE, "attention")


def kinds(config: Mapping[str, Any]) -> list[str]:
    """What each layer holds. Raises InputError for a kind that is not known."""
    many = config["num_hidden_layers"]
    usual = [
        "full_attention" if i % 4 == 3 or (many < 4 and i == many - 1) else "linear_attention" for i in range(many)
    ]
    return hybrid.kinds(config, "layer_types", config["layer_types"] or usual, KINDS)


def _net(config: Mapping[str, Any]) -> dict[str, Any]:
    groups = config["linear_num_key_heads"] or config["num_attention_heads"]
    size = config["linear_key_head_dim"] or int(0.75 * config["hidden_size"] / groups)
    return {
        "heads": config["linear_num_value_heads"] or config["num_attention_heads"], "key_heads": groups,
        "key_size": size, "value_size": config["linear_value_head_dim"] or 2 * size, "norm_eps": 1e-5,
        "kernel": config["linear_conv_kernel_dim"], "negative_eigenvalues": config["linear_allow_neg_eigval"],
    }  # fmt: skip


def model(config: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a `LanguageModel`. Without `rope_parameters` nothing turns."""
    eps, bias = config["rms_norm_eps"], config["attention_bias"]
    given = config["rope_parameters"] or config["rope_theta"]
    turning = hybrid.rope(config, hybrid.head_size(config)) if given else {}
    more = {"bias": bias, "output_bias": bias, "qk_norm": "whole", "norm_eps": eps, "norm_at": "after"}
    layers = {
        "gated-delta-net": _net(config),
        "attention": hybrid.attention(config, **turning, **more),
        "mlp": {"hidden": config["intermediate_size"]},
        "mlp@after": {"hidden": config["intermediate_size"], "norm_at": "after"},
    }
    blocks = [name for kind in kinds(config) for name in (kind, "mlp@after" if kind == "attention" else "mlp")]
    return hybrid.model(config, blocks, layers, eps=eps)


def rules(config: Mapping[str, Any]) -> list[Rule]:
    """Every tensor of an OLMo Hybrid."""
    result = [rule("embedding.weight", "model.embed_tokens.weight"), rule("norm.weight", "model.norm.weight")]
    result += head(config, "lm_head.weight")
    for i, kind in enumerate(kinds(config)):
        layer, bias = f"model.layers.{i}.", config["attention_bias"]
        norms = "attention_layer_norm", "feedforward_layer_norm"
        if kind == "attention":
            # The name under which transformers save the first of them.
            norms, at = ("feedforward_layer_norm", "post_feedforward_layernorm"), (held(2 * i), f"{layer}self_attn.")
            result += hybrid.attention_rules(at, bias, bias)
            result += [rule(f"{ours}.weight", f"{ours[0]}_norm.weight", at=at) for ours in ("query_norm", "key_norm")]
        else:
            result += _net_rules(_net(config), (held(2 * i), f"{layer}linear_attn."))
        for j, norm in enumerate(norms):
            result.append(rule(f"blocks.{2 * i + j}.recurrence_norm.weight", f"{layer}{norm}.weight"))
        result += hybrid.mlp_rules((held(2 * i + 1), f"{layer}mlp."))
    return result


def _net_rules(net: Mapping[str, Any], at: hybrid.At) -> list[Rule]:
    heads, groups = net["heads"], net["key_heads"]
    keys, values = groups * net["key_size"], heads * net["value_size"]
    maps = rule(
        "to_qkvz.weight", "q_proj.weight k_proj.weight v_proj.weight g_proj.weight", at=at,
        lengths=(keys, keys, values, values), rows=interleaved(groups, (keys, keys, values, values)),
    )  # fmt: skip
    rates = rule("to_ba.weight", "b_proj.weight a_proj.weight", at=at, rows=interleaved(groups, (heads, heads)))
    windows = rule(
        "conv_weight", "q_conv1d.weight k_conv1d.weight v_conv1d.weight", (keys, 1, net["kernel"]), at,
        lengths=(keys, keys, values),
    )  # fmt: skip
    names = {
        "dt_bias": "dt_bias",
        "A_log": "A_log",
        "norm_weight": "o_norm.weight",
        "to_output.weight": "o_proj.weight",
    }
    return [maps, rates, windows, *(rule(ours, theirs, at=at) for ours, theirs in names.items())]


def aliases(config: Mapping[str, Any]) -> dict[str, str]:
    """What published checkpoints call the norm behind attention -> what transformers save it as."""
    names = "model.layers.{}.post_attention_layernorm.weight", "model.layers.{}.feedforward_layer_norm.weight"
    attentive = [i for i, kind in enumerate(kinds(config)) if kind == "attention"]
    return {names[0].format(i): names[1].format(i) for i in attentive}


OLMO_HYBRID = Family(
    defaults=DEFAULTS,
    only={"hidden_act": ["silu"]},
    model=model,
    rules=rules,
    ignored=tied_head("lm_head.weight"),
    aliases=aliases,
)
