"""Checkpoints of xLSTM 7B and its kind: mLSTM layers with gated MLPs.

The head is never tied: transformers pass over `tie_word_embeddings` here. Nor can they build a model with `weight_mode`
"fused", so there is none to read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from recurra.interop.family import Family
from recurra.interop.rules import Rule, rule

DEFAULTS = {
    "vocab_size": 50304, "hidden_size": 4096, "num_hidden_layers": 32, "num_heads": 8,
    "norm_eps": 1e-6, "qk_dim_factor": 0.5, "v_dim_factor": 1.0, "ffn_proj_factor": 2.667,
    "ffn_round_up_to_multiple_of": 64, "gate_soft_cap": 15.0, "output_logit_soft_cap": 30.0,
}  # fmt: skip

LAYER = {
    "q.weight": "to_query.weight",
    "k.weight": "to_key.weight",
    "v.weight": "to_value.weight",
    "ogate_preact.weight": "to_gate.weight",
    "igate_preact.weight": "to_input.weight",
    "igate_preact.bias": "to_input.bias",
    "fgate_preact.weight": "to_forget.weight",
    "fgate_preact.bias": "to_forget.bias",
}
"""Their tensors of a layer -> ours."""


def model(config: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a `LanguageModel`."""
    multiple = config["ffn_round_up_to_multiple_of"]
    return {
        "vocabulary": config["vocab_size"],
        "width": config["hidden_size"],
        "pattern": f"xlstm-7b*{config['num_hidden_layers']}",
        "mlp": math.floor((config["hidden_size"] * config["ffn_proj_factor"] + multiple - 1) / multiple) * multiple,
        "layers": {
            "xlstm-7b": {
                "heads": config["num_heads"], "key": config["qk_dim_factor"], "value": config["v_dim_factor"],
                "cap": config["gate_soft_cap"], "eps": config["norm_eps"],
            }
        },
        "design": {
            "eps": config["norm_eps"], "scale": 1.0, "tied": False,
            "soft_cap": config["output_logit_soft_cap"],
        },
    }  # fmt: skip


def rules(config: Mapping[str, Any]) -> list[Rule]:
    """Every tensor of an xLSTM."""
    result = [rule("embedding.weight", "backbone.embeddings.weight"), rule("norm.weight", "backbone.out_norm.weight")]
    result.append(rule("head.weight", "lm_head.weight"))
    for i in range(config["num_hidden_layers"]):
        at = f"blocks.{i}.recurrence.", f"backbone.blocks.{i}.mlstm_layer."
        result += [rule(ours, theirs, at=at) for theirs, ours in LAYER.items()]
        result.append(rule("norm_weight", "multihead_norm.weight", at=at))
        result.append(rule("to_output.weight", "out_proj.weight", at=at))
        at = f"blocks.{i}.", f"backbone.blocks.{i}."
        result.append(rule("recurrence_norm.weight", "norm_mlstm.weight", at=at))
        result.append(rule("mlp_norm.weight", "norm_ffn.weight", at=at))
        result.append(rule("mlp_in.weight", "ffn.proj_up_gate.weight ffn.proj_up.weight", at=at))
        result.append(rule("mlp_out.weight", "ffn.proj_down.weight", at=at))
    return result


XLSTM = Family(
    defaults=DEFAULTS,
    only={"use_bias": [False], "add_out_norm": [True], "eps": [1e-6], "weight_mode": ["single"]},
    model=model,
    rules=rules,
)
