"""Checkpoints of RecurrentGemma: Griffin's recurrent blocks and local attention."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from recurra.errors import InputError
from recurra.interop.family import Family, head, tied_head
from recurra.interop.rules import Rule, rule
from recurra.options import shown

DEFAULTS = {
    "num_hidden_layers": 26, "vocab_size": 256000, "hidden_size": 2560, "intermediate_size": 7680,
    "num_attention_heads": 10, "num_key_value_heads": None, "lru_width": None, "attention_window_size": 2048,
    "conv1d_width": 4, "logits_soft_cap": 30.0, "rms_norm_eps": 1e-6, "tie_word_embeddings": True,
    "block_types": ["recurrent", "recurrent", "attention"], "rope_parameters": None, "rope_theta": 10000.0,
    "partial_rotary_factor": 0.5,
}  # fmt: skip

LAYERS = {"recurrent": "griffin", "attention": "local-attention"}
"""Their block types -> our layers."""


def kinds(config: Mapping[str, Any]) -> list[str]:
    """Which of our layers each block holds. Raises InputError for an unknown block type."""
    types = config["block_types"]
    if unknown := [kind for kind in types if not isinstance(kind, str) or kind not in LAYERS]:
        raise InputError(f"config.json has block_types {shown(unknown)}; expected {' or '.join(LAYERS)}")
    return [LAYERS[types[i % len(types)]] for i in range(config["num_hidden_layers"])]


def model(config: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a `LanguageModel`. Raises InputError for a RoPE that is not implemented."""
    rope = {"rope_theta": config["rope_theta"], "partial_rotary_factor": config["partial_rotary_factor"]}
    rope |= config["rope_parameters"] or {}
    if rope.get("rope_type", "default") != "default":
        raise InputError(f"config.json has rope_type {shown(rope['rope_type'])}; only 'default' can be read")
    heads, blocks = config["num_attention_heads"], kinds(config)
    turning = config["hidden_size"] // heads * rope["partial_rotary_factor"]
    if turning % 2:
        raise InputError(
            f"config.json has {shown(turning)} channels of a head turn by RoPE; only an even number can be read"
        )
    layers = {
        "griffin": {"hidden": config["lru_width"], "heads": heads, "kernel": config["conv1d_width"]},
        "local-attention": {
            "heads": heads,
            "key_heads": config["num_key_value_heads"] or heads,
            "rotary": rope["partial_rotary_factor"],
            "base": rope["rope_theta"],
            "window": config["attention_window_size"],
            "output_bias": True,
        },
    }
    return {
        "vocabulary": config["vocab_size"],
        "width": config["hidden_size"],
        "pattern": "+".join(blocks),
        "mlp": config["intermediate_size"] // 2,
        "layers": {name: options for name, options in layers.items() if name in blocks},
        "design": {
            "norm": "rms-from-one", "eps": config["rms_norm_eps"], "activation": "gelu-tanh", "mlp_bias": True,
            "tied": config["tie_word_embeddings"], "soft_cap": config["logits_soft_cap"],
            # They hold this number in bfloat16.
            "scale": float(torch.tensor(config["hidden_size"] ** 0.5, dtype=torch.bfloat16)),
        },
    }  # fmt: skip


def rules(config: Mapping[str, Any]) -> list[Rule]:
    """Every tensor of a RecurrentGemma."""
    result = [rule("embedding.weight", "model.embed_tokens.weight"), rule("norm.weight", "model.final_norm.weight")]
    result += head(config, "lm_head.weight")
    for i, kind in enumerate(kinds(config)):
        at = f"blocks.{i}.", f"model.layers.{i}."
        result.append(rule("recurrence_norm.weight", "temporal_pre_norm.weight", at=at))
        result.append(rule("mlp_norm.weight", "channel_pre_norm.weight", at=at))
        for end in ("weight", "bias"):
            result.append(rule(f"mlp_in.{end}", f"mlp_block.gate_proj.{end} mlp_block.up_proj.{end}", at=at))
            result.append(rule(f"mlp_out.{end}", f"mlp_block.down_proj.{end}", at=at))
        at = f"blocks.{i}.recurrence.", f"model.layers.{i}.temporal_block."
        result += _recurrent(config, at) if kind == "griffin" else _attention(at)
    return result


def _recurrent(config: Mapping[str, Any], at: tuple[str, str]) -> list[Rule]:
    hidden, heads = config["lru_width"] or config["hidden_size"], config["num_attention_heads"]
    block = hidden // heads
    maps = {"to_signal": "linear_x", "to_gate": "linear_y", "to_output": "linear_out"}
    result = [rule(f"{ours}.{end}", f"{maps[ours]}.{end}", at=at) for ours in maps for end in ("weight", "bias")]
    gates = "rg_lru.recurrent_gate_{0} rg_lru.input_gate_{0}"
    return [
        *result,
        rule("conv_weight", "conv_1d.weight", (hidden, 1, config["conv1d_width"]), at),
        rule("conv_bias", "conv_1d.bias", at=at),
        rule("Lambda", "rg_lru.recurrent_param", at=at),
        rule("gate_weight", gates.format("weight"), (heads, block, block), at),
        rule("gate_bias", gates.format("bias"), (heads, block), at),
    ]


def _attention(at: tuple[str, str]) -> list[Rule]:
    maps = {"to_query": "q_proj", "to_key": "k_proj", "to_value": "v_proj", "to_output": "o_proj"}
    result = [rule(f"{ours}.weight", f"{theirs}.weight", at=at) for ours, theirs in maps.items()]
    return [*result, rule("to_output.bias", "o_proj.bias", at=at)]


RECURRENT_GEMMA = Family(
    defaults=DEFAULTS,
    only={"hidden_activation": ["gelu_pytorch_tanh"], "attention_bias": [False]},
    model=model,
    rules=rules,
    ignored=tied_head("lm_head.weight"),
)
