"""Checkpoints of Kimi Linear: Kimi delta attention, some latent attention, and an MLP or experts behind each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recurra.interop import hybrid
from recurra.interop.family import Family, tied_head
from recurra.interop.hybrid import held
from recurra.interop.rules import Rule, rule

DEFAULTS = {
    "vocab_size": 163840, "hidden_size": 2304, "intermediate_size": 9216, "moe_intermediate_size": 1024,
    "num_hidden_layers": 27, "num_attention_heads": 32, "num_shared_experts": 1, "routed_scaling_factor": 2.446,
    "kv_lora_rank": 512, "qk_rope_head_dim": 64, "v_head_dim": 128, "qk_nope_head_dim": 128, "num_expert_group": 1,
    "topk_group": 1, "num_experts_per_token": 8, "moe_renormalize": True, "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False, "num_experts": 256, "mlp_layer_types": None, "layer_types": None,
    "linear_attn_config": None, "first_k_dense_replace": 1,
    "linear_head_dim": 128, "linear_num_heads": 32, "linear_conv_kernel_dim": 4,
}  # fmt: skip
KINDS = {"linear_attention": "kimi-delta-attention", "full_attention": "latent-attention"}
SHARED = "mlp@shared"
MIXING = {"dense": "mlp", "sparse": f"experts|{SHARED}"}


def kinds(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What each layer holds to mix over time, and to mix channels. Raises InputError for a kind that is not known."""
    layers, attentive = range(config["num_hidden_layers"]), (config["linear_attn_config"] or {}).get("full_attn_layers")
    chosen = [
        i > 0 and i % 4 == 0 if attentive is None else i + 1 in attentive for i in layers
    ]  # theirs count from one
    return with_channels(config, ["full_attention" if one else "linear_attention" for one in chosen])


def with_channels(config: Mapping[str, Any], usual: list[str]) -> list[tuple[str, str]]:
    """As `kinds`, where config.json does not say what mixes over time from what is `usual`."""
    first, layers = config["first_k_dense_replace"], range(config["num_hidden_layers"])
    channels = config["mlp_layer_types"] or ["dense" if i < first else "sparse" for i in layers]
    mixing = hybrid.kinds(config, "mlp_layer_types", channels, MIXING)
    return list(zip(hybrid.kinds(config, "layer_types", config["layer_types"] or usual, KINDS), mixing, strict=True))


def _delta_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """From fields of their own, or from a mapping, as in published checkpoints."""
    given = config["linear_attn_config"] or {}
    return {
        "heads": given.get("num_heads", config["linear_num_heads"]),
        "size": given.get("head_dim", config["linear_head_dim"]),
        "kernel": given.get("short_conv_kernel_size", config["linear_conv_kernel_dim"]),
        "norm_eps": config["rms_norm_eps"],
        "gate_bias": False,
    }


def model(config: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a `LanguageModel`."""
    return model_of(config, kinds(config), _delta_options(config), {"base": None})


def model_of(
    config: Mapping[str, Any], kinds: list[tuple[str, str]], delta: Mapping[str, Any], latent: Mapping[str, Any]
) -> dict[str, Any]:
    """As `model`, of layers of these kinds, whose recurrence and attention have these options as well."""
    hidden = config["moe_intermediate_size"]
    layers: dict[str, Mapping[str, Any]] = {
        "kimi-delta-attention": delta,
        "latent-attention": {
            "heads": config["num_attention_heads"], "size": config["qk_nope_head_dim"], **latent,
            "value_size": config["v_head_dim"], "latent": config["kv_lora_rank"], "shared": config["qk_rope_head_dim"],
        },
        "mlp": {"hidden": config["intermediate_size"]},
        "experts": {
            "hidden": hidden, "experts": config["num_experts"], "active": config["num_experts_per_token"],
            "score": "sigmoid", "normalised": config["moe_renormalize"], "scale": config["routed_scaling_factor"],
            "correction": True, "groups": config["num_expert_group"], "active_groups": config["topk_group"],
        },
        SHARED: {"hidden": hidden * config["num_shared_experts"]},
    }  # fmt: skip
    return hybrid.model(config, [name for both in kinds for name in both], layers, eps=config["rms_norm_eps"])


def rules(config: Mapping[str, Any]) -> list[Rule]:
    """Every tensor of a Kimi Linear."""
    result = hybrid.around(config, hybrid.LLAMA, ("input_layernorm", "post_attention_layernorm"))
    for i, (time, channels) in enumerate(kinds(config)):
        at = held(2 * i), f"model.layers.{i}.self_attn."
        result += _delta(config, at) if time == "kimi-delta-attention" else _latent(at)
        names = "block_sparse_moe", "w1 w3", "w2", "gate.e_score_correction_bias"
        result += channel_rules(config, i, channels, *names)
    return result


def channel_rules(
    config: Mapping[str, Any], i: int, channels: str, name: str, into: str, out: str, correction: str
) -> list[Rule]:
    """What mixes channels in layer i; `name` is theirs for it, `into` and `out` are those of an expert's maps."""
    layer = f"model.layers.{i}.{name}."
    if channels == "mlp":
        return hybrid.mlp_rules((held(2 * i + 1), layer))
    at, sizes = (held(2 * i + 1, 0), layer), (config["moe_intermediate_size"], config["hidden_size"])
    result = hybrid.expert_rules(at, config["num_experts"], *sizes, "gate.weight", into, out)
    result.append(rule("correction", correction, at=at))
    return result + hybrid.mlp_rules((held(2 * i + 1, 1), f"{layer}shared_experts."))


def _delta(config: Mapping[str, Any], at: hybrid.At) -> list[Rule]:
    options = _delta_options(config)
    heads, inner = options["heads"], options["heads"] * options["size"]
    names = {
        "to_decay.0.weight": "f_a_proj.weight", "to_decay.1.weight": "f_b_proj.weight", "dt_bias": "dt_bias",
        "to_gate.0.weight": "g_a_proj.weight", "to_gate.1.weight": "g_b_proj.weight", "to_beta.weight": "b_proj.weight",
        "norm_weight": "o_norm.weight", "to_output.weight": "o_proj.weight",
        "to_qkv.weight": "q_proj.weight k_proj.weight v_proj.weight",
    }  # fmt: skip
    result = [rule(ours, theirs, at=at) for ours, theirs in names.items()]
    result.append(
        rule("conv_weight", "q_conv1d.weight k_conv1d.weight v_conv1d.weight", (inner, 1, options["kernel"]), at)
    )
    return [*result, rule("A_log", "A_log", (1, 1, heads, 1), at)]


def _latent(at: hybrid.At) -> list[Rule]:
    names = {
        "to_query": "q_proj", "to_latent": "kv_a_proj_with_mqa", "norm": "kv_a_layernorm", "to_heads": "kv_b_proj",
        "to_output": "o_proj",
    }  # fmt: skip
    return [rule(f"{ours}.weight", f"{theirs}.weight", at=at) for ours, theirs in names.items()]


def aliases(config: Mapping[str, Any]) -> dict[str, str]:
    """What published checkpoints call an MLP that is no expert -> what transformers save it as."""
    dense = [f"model.layers.{i}." for i, (_, channels) in enumerate(kinds(config)) if channels == "mlp"]
    ends = [f"{name}_proj.weight" for name in ("gate", "up", "down")]
    return {f"{layer}mlp.{end}": f"{layer}block_sparse_moe.{end}" for layer in dense for end in ends}


KIMI_LINEAR = Family(
    defaults=DEFAULTS,
    only={"hidden_act": ["silu"], "q_lora_rank": [None], "attention_bias": [False]},
    model=model,
    rules=rules,
    ignored=tied_head("lm_head.weight"),
    aliases=aliases,
)
