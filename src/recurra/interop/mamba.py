"""Checkpoints of Mamba and of FalconMamba, which adds norms inside its layers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from recurra.interop.family import Family, head, tied_head
from recurra.interop.rules import Rule, rule

DEFAULTS = {
    "vocab_size": 50280, "hidden_size": 768, "state_size": 16, "num_hidden_layers": 32, "layer_norm_epsilon": 1e-5,
    "expand": 2, "conv_kernel": 4, "use_bias": False, "use_conv_bias": True, "residual_in_fp32": True,
    "time_step_rank": "auto", "tie_word_embeddings": True, "mixer_rms_eps": 1e-6,
}  # fmt: skip


def model(config: Mapping[str, Any], layer: str, **options: Any) -> dict[str, Any]:
    """Arguments of a `LanguageModel` of Mamba's kind: norms, recurrences and no MLPs."""
    return {
        "vocabulary": config["vocab_size"],
        "width": config["hidden_size"],
        "pattern": f"{layer}*{config['num_hidden_layers']}",
        "mlp": 0,
        "layers": {
            layer: {
                "state_size": config["state_size"],
                "expand": config["expand"],
                "kernel": config["conv_kernel"],
                "conv_bias": config["use_conv_bias"],
                **options,
            }
        },
        "design": {
            "eps": config["layer_norm_epsilon"], "scale": 1.0, "tied": config["tie_word_embeddings"],
            "float32_residual": config["residual_in_fp32"],
        },
    }  # fmt: skip


def rank(config: Mapping[str, Any]) -> int:
    """Of the map to time steps."""
    given = config["time_step_rank"]
    return math.ceil(config["hidden_size"] / 16) if given == "auto" else given


def around(config: Mapping[str, Any]) -> list[Rule]:
    """Everything but the recurrences."""
    rules = [
        rule("embedding.weight", "backbone.embeddings.weight"),
        rule("norm.weight", "backbone.norm_f.weight"),
        *head(config, "lm_head.weight"),
    ]
    for i in range(config["num_hidden_layers"]):
        rules.append(rule(f"blocks.{i}.recurrence_norm.weight", f"backbone.layers.{i}.norm.weight"))
    return rules


def at(i: int) -> tuple[str, str]:
    """Where the recurrence of layer i is, in ours and in theirs."""
    return f"blocks.{i}.recurrence.", f"backbone.layers.{i}.mixer."


def rules(config: Mapping[str, Any]) -> list[Rule]:
    """Every tensor of a Mamba."""
    inner, kernel, result = int(config["expand"] * config["hidden_size"]), config["conv_kernel"], around(config)
    for i in range(config["num_hidden_layers"]):
        result += [
            rule("to_inner.weight", "in_proj.weight", at=at(i)),
            rule("conv_weight", "conv1d.weight", (inner, 1, kernel), at=at(i)),
            rule("to_selection.weight", "x_proj.weight", at=at(i)),
            rule("to_output.weight", "out_proj.weight", at=at(i)),
        ]
        same = {"to_dt.weight": "dt_proj.weight", "to_dt.bias": "dt_proj.bias", "A_log": "A_log", "D": "D"}
        result += [rule(ours, theirs, at=at(i)) for ours, theirs in same.items()]
        if config["use_conv_bias"]:
            result.append(rule("conv_bias", "conv1d.bias", at=at(i)))
        if config["use_bias"]:
            result.append(rule("to_inner.bias", "in_proj.bias", at=at(i)))
            result.append(rule("to_output.bias", "out_proj.bias", at=at(i)))
    return result


MAMBA = Family(
    defaults=DEFAULTS,
    only={"hidden_act": ["silu"]},
    model=lambda config: model(config, "mamba", rank=rank(config), bias=config["use_bias"]),
    rules=rules,
    ignored=tied_head("lm_head.weight"),
)

FALCON_MAMBA = Family(
    defaults=DEFAULTS,
    only={"hidden_act": ["silu"]},
    model=lambda config: model(
        config, "falcon-mamba", rank=rank(config), bias=config["use_bias"], eps=config["mixer_rms_eps"]
    ),
    rules=rules,
    ignored=tied_head("lm_head.weight"),
)
