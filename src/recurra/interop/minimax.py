"""Checkpoints of MiniMax: lightning attention, some softmax attention, and experts behind each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recurra.interop import hybrid
from recurra.interop.family import Family, tied_head
from recurra.interop.hybrid import held
from recurra.interop.rules import Rule, rule

DEFAULTS = {
    "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": None, "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False, "num_experts_per_tok": 2, "num_local_experts": 8, "layer_types": None,
    "full_attn_alpha_factor": 1.0, "full_attn_beta_factor": 1.0, "linear_attn_alpha_factor": 1.0,
    "linear_attn_beta_factor": 1.0, "mlp_alpha_factor": 1.0, "mlp_beta_factor": 1.0,
    "partial_rotary_factor": None, **hybrid.NO_ROPE_SCALING,
}  # fmt: skip
LIGHTNING = "lightning-attention@layer"
KINDS = dict.fromkeys(hybrid.RECURRENT, LIGHTNING) | dict.fromkeys(hybrid.ATTENTIVE, "attention")


def kinds(config: Mapping[str, Any]) -> list[str]:
    """What each layer holds. Raises InputError for a kind that is not known."""
    usual = ["linear_attention" if i % 2 else "full_attention" for i in range(config["num_hidden_layers"])]
    given = usual if config["layer_types"] is None else config["layer_types"]
    return hybrid.kinds(config, "layer_types", given, KINDS)


def _around(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {"norm_at": "around", "keep": config[f"{name}_alpha_factor"], "gain": config[f"{name}_beta_factor"]}


def model(config: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a `LanguageModel`. The depth of each lightning attention is an option of its own."""
    eps, size, last = config["rms_norm_eps"], hybrid.head_size(config), config["num_hidden_layers"] - 1
    layers = {
        "attention": hybrid.attention(config, **hybrid.rope(config, size, 1e6), **_around(config, "full_attn")),
        "experts": {
            "hidden": config["intermediate_size"],
            "experts": config["num_local_experts"],
            "active": config["num_experts_per_tok"],
            **_around(config, "mlp"),
        },
    }
    usual = {"heads": config["num_attention_heads"], "size": size, **_around(config, "linear_attn")}
    blocks = []
    for i, kind in enumerate(kinds(config)):
        if kind == LIGHTNING:
            kind = f"{LIGHTNING}-{i}"
            layers[kind] = usual | {"depth": i / (last + 1e-5)}
        blocks += [kind, "experts"]
    return hybrid.model(config, blocks, layers, eps=eps)


def _part(config: Mapping[str, Any], name: str) -> int | None:
    return None if config[f"{name}_beta_factor"] == 1 else 0


def rules(config: Mapping[str, Any]) -> list[Rule]:
    """Every tensor of a MiniMax."""
    result = hybrid.around(config, hybrid.LLAMA, ("input_layernorm", "post_attention_layernorm"))
    for i, kind in enumerate(kinds(config)):
        layer = f"model.layers.{i}."
        if kind == LIGHTNING:
            at = held(2 * i, _part(config, "linear_attn")), f"{layer}self_attn."
            names = {"to_qkv": "qkv_proj", "to_gate": "output_gate", "norm": "norm", "to_output": "out_proj"}
            result += [rule(f"{ours}.weight", f"{theirs}.weight", at=at) for ours, theirs in names.items()]
        else:
            result += hybrid.attention_rules((held(2 * i, _part(config, "full_attn")), f"{layer}self_attn."))
        at = held(2 * i + 1, _part(config, "mlp")), f"{layer}block_sparse_moe."
        wide, width = config["intermediate_size"], config["hidden_size"]
        result += hybrid.expert_rules(at, config["num_local_experts"], wide, width, "gate.weight", "w1 w3", "w2")
    return result


def _ignored(config: Mapping[str, Any]) -> list[str]:
    """What follows from the depth of a layer, and a head that is tied."""
    made = ("slope_rate", "query_decay", "key_decay", "diagonal_decay")
    layers = range(config["num_hidden_layers"])
    tables = [f"model.layers.{i}.self_attn.{name}" for i in layers for name in made]
    return tables + tied_head("lm_head.weight")(config)


MINIMAX = Family(
    defaults=DEFAULTS,
    only={"hidden_act": ["silu"], "sliding_window": [None]},
    model=model,
    rules=rules,
    ignored=_ignored,
)
