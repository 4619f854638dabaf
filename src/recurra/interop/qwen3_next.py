"""Checkpoints of Qwen3-Next and Qwen3.5: gated delta nets, some gated attention, and an MLP or experts behind each.

Of Qwen3.5 those of its language models are read, which have the same layers and other names for some of their maps.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recurra.interop import hybrid
from recurra.interop.family import Family, tied_head
from recurra.interop.hybrid import held
from recurra.interop.rules import Rule, interleaved, rule

DEFAULTS = {
    "vocab_size": 151936, "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 48,
    "num_attention_heads": 16, "num_key_value_heads": 2, "rms_norm_eps": 1e-6, "tie_word_embeddings": False,
    "attention_bias": False, "head_dim": 256, "linear_conv_kernel_dim": 4, "linear_key_head_dim": 128,
    "linear_value_head_dim": 128, "linear_num_key_heads": 16, "linear_num_value_heads": 32, "decoder_sparse_step": 1,
    "moe_intermediate_size": 512, "shared_expert_intermediate_size": 512, "num_experts_per_tok": 10,
    "num_experts": 512, "norm_topk_prob": True, "mlp_only_layers": None, "layer_types": None,
    "full_attention_interval": 4, "partial_rotary_factor": None, **hybrid.NO_ROPE_SCALING,
}  # fmt: skip
DENSE = DEFAULTS | {
    "vocab_size": 248320, "hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 32,
    "num_key_value_heads": 4, "num_experts": 0,
}  # fmt: skip
SPARSE = DEFAULTS | {"vocab_size": 248320, "num_hidden_layers": 40, "num_experts_per_tok": 8, "num_experts": 256}
KINDS = dict.fromkeys(hybrid.RECURRENT, "gated-delta-net") | dict.fromkeys(hybrid.ATTENTIVE, "attention")
SHARED = "mlp@shared"


def kinds(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What each layer holds to mix over time, and to mix channels. Raises InputError for a kind that is not known."""
    layers, every = range(config["num_hidden_layers"]), config["full_attention_interval"]
    usual = ["linear_attention" if (i + 1) % every else "full_attention" for i in layers]
    given = usual if config["layer_types"] is None else config["layer_types"]
    alone, step = config["mlp_only_layers"] or [], config["decoder_sparse_step"]
    sparse = [config["num_experts"] > 0 and i not in alone and (i + 1) % step == 0 for i in layers]
    return [
        (time, f"experts|{SHARED}" if mixed else "mlp")
        for time, mixed in zip(hybrid.kinds(config, "layer_types", given, KINDS), sparse, strict=True)
    ]


def model(config: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a `LanguageModel`."""
    eps, bias = config["rms_norm_eps"], config["attention_bias"]
    net = {
        "heads": config["linear_num_value_heads"], "key_heads": config["linear_num_key_heads"],
        "key_size": config["linear_key_head_dim"], "value_size": config["linear_value_head_dim"],
        "kernel": config["linear_conv_kernel_dim"], "norm_eps": eps,
    }  # fmt: skip
    turning = hybrid.rope(config, config["head_dim"], share=0.25)
    normed = {"gated": True, "qk_norm": "head-from-one", "norm_eps": eps}
    experts = {
        "hidden": config["moe_intermediate_size"], "experts": config["num_experts"],
        "active": config["num_experts_per_tok"], "normalised": config["norm_topk_prob"],
    }  # fmt: skip
    layers = {
        "gated-delta-net": net,
        "attention": hybrid.attention(config, bias=bias, output_bias=bias, **turning, **normed),
        "mlp": {"hidden": config["intermediate_size"]},
        "experts": experts,
        SHARED: {"hidden": config["shared_expert_intermediate_size"], "output_gate": True},
    }
    blocks = [name for both in kinds(config) for name in both]
    return hybrid.model(config, blocks, layers, norm="rms-from-one", eps=eps)


def rules(config: Mapping[str, Any], apart: bool = False) -> list[Rule]:
    """Every tensor; `apart` says that the maps of gated delta nets are tensors of their own."""
    result = hybrid.around(config, hybrid.LLAMA, ("input_layernorm", "post_attention_layernorm"))
    bias = config["attention_bias"]
    for i, (time, channels) in enumerate(kinds(config)):
        layer = f"model.layers.{i}."
        if time == "attention":
            at = held(2 * i), f"{layer}self_attn."
            result += hybrid.attention_rules(at, bias, bias)
            result += [rule(f"{ours}.weight", f"{ours[0]}_norm.weight", at=at) for ours in ("query_norm", "key_norm")]
        else:
            result += _net(config, (held(2 * i), f"{layer}linear_attn."), apart)
        at = held(2 * i + 1), f"{layer}mlp."
        if channels == "mlp":
            result += hybrid.mlp_rules(at)
        else:
            hidden, width = config["moe_intermediate_size"], config["hidden_size"]
            at = held(2 * i + 1, 0), f"{layer}mlp."
            result += hybrid.expert_rules(at, config["num_experts"], hidden, width, "gate.weight")
            at = held(2 * i + 1, 1), f"{layer}mlp."
            gate, value, out = (f"shared_expert.{name}_proj" for name in ("gate", "up", "down"))
            result += hybrid.mlp_rules(at, gate, value, out)
            result.append(rule("to_gate.weight", "shared_expert_gate.weight", at=at))
    return result


def _net(config: Mapping[str, Any], at: hybrid.At, apart: bool) -> list[Rule]:
    heads, groups = config["linear_num_value_heads"], config["linear_num_key_heads"]
    keys, values = groups * config["linear_key_head_dim"], heads * config["linear_value_head_dim"]
    names = {
        "dt_bias": "dt_bias",
        "A_log": "A_log",
        "norm_weight": "norm.weight",
        "to_output.weight": "out_proj.weight",
    }
    result = [rule(ours, theirs, at=at) for ours, theirs in names.items()]
    channels = 2 * keys + values
    result.append(rule("conv_weight", "conv1d.weight", (channels, 1, config["linear_conv_kernel_dim"]), at))
    if not apart:
        return [
            *result,
            rule("to_qkvz.weight", "in_proj_qkvz.weight", at=at),
            rule("to_ba.weight", "in_proj_ba.weight", at=at),
        ]
    rows = interleaved(groups, (keys, keys, values, values))
    whole = rule("to_qkvz.weight", "in_proj_qkv.weight in_proj_z.weight", at=at, lengths=(channels, values), rows=rows)
    rows = interleaved(groups, (heads, heads))
    return [*result, whole, rule("to_ba.weight", "in_proj_b.weight in_proj_a.weight", at=at, rows=rows)]


def _family(defaults: Mapping[str, Any], apart: bool) -> Family:
    return Family(
        defaults=defaults,
        only={"hidden_act": ["silu"]},
        model=model,
        rules=lambda config: rules(config, apart),
        ignored=tied_head("lm_head.weight"),
    )


QWEN3_NEXT = _family(DEFAULTS, apart=False)
QWEN3_5 = _family(DENSE, apart=True)
QWEN3_5_MOE = _family(SPARSE, apart=True)
