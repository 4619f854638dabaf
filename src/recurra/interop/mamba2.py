"""Checkpoints of Mamba-2."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recurra.errors import InputError
from recurra.interop import mamba
from recurra.interop.family import Family, tied_head
from recurra.interop.rules import Rule, rule

DEFAULTS = {
    "num_heads": 128, "head_dim": 64, "vocab_size": 32768, "hidden_size": 4096, "state_size": 128,
    "num_hidden_layers": 64, "layer_norm_epsilon": 1e-5, "expand": 2, "conv_kernel": 4, "n_groups": 8,
    "use_conv_bias": True, "residual_in_fp32": True, "tie_word_embeddings": False,
}  # fmt: skip

UNLIMITED = [[0.0, float("inf")], [0.0, {"__float__": "Infinity"}]]
"""How config.json writes time steps that are not clamped."""


def model(config: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a `LanguageModel`. Raises InputError where heads do not make up the inner width."""
    heads, size, inner = config["num_heads"], config["head_dim"], config["expand"] * config["hidden_size"]
    if heads * size != inner:
        raise InputError(
            f"config.json has num_heads * head_dim = {heads * size}; expected expand * hidden_size = {inner}"
        )
    groups, eps = config["n_groups"], config["layer_norm_epsilon"]
    return mamba.model(config, "mamba2", head_size=size, groups=groups, eps=eps)


def rules(config: Mapping[str, Any]) -> list[Rule]:
    """Every tensor of a Mamba-2."""
    inner, kernel, result = config["num_heads"] * config["head_dim"], config["conv_kernel"], mamba.around(config)
    signal = inner + 2 * config["n_groups"] * config["state_size"]
    for i in range(config["num_hidden_layers"]):
        at = mamba.at(i)
        result += [
            rule("to_inner.weight", "in_proj.weight", at=at),
            rule("conv_weight", "conv1d.weight", (signal, 1, kernel), at=at),
            rule("dt_bias", "dt_bias", at=at),
            rule("A_log", "A_log", at=at),
            rule("D", "D", at=at),
            rule("norm_weight", "norm.weight", at=at),
            rule("to_output.weight", "out_proj.weight", at=at),
        ]
        if config["use_conv_bias"]:
            result.append(rule("conv_bias", "conv1d.bias", at=at))
    return result


MAMBA2 = Family(
    defaults=DEFAULTS,
    only={"hidden_act": ["silu"], "use_bias": [False], "time_step_limit": UNLIMITED},
    model=model,
    rules=rules,
    ignored=tied_head("lm_head.weight"),
)
