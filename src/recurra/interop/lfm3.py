"""Checkpoints of LFM3: gated short convolutions, attention over all or over a window, and an MLP behind each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from recurra import options
from recurra.errors import InputError
from recurra.interop import hybrid
from recurra.interop.family import Family, tied_head
from recurra.interop.hybrid import held
from recurra.interop.lfm2 import NAMES, conv_rules
from recurra.interop.rules import Rule, rule
from recurra.options import shown

DEFAULTS = {
    "vocab_size": 128000, "hidden_size": 2048, "intermediate_size": 7680, "num_hidden_layers": 24,
    "num_attention_heads": 16, "num_key_value_heads": 4, "head_dim": 128, "norm_eps": 1e-5, "tie_word_embeddings": True,
    "conv_bias": False, "conv_L_cache": 7, "sliding_window": 256, "layer_types": None, "use_sandwich_norm": True,
    "use_attention_gate": True, "attention_bias": False, "rope_parameters": None,
}  # fmt: skip
KINDS = {"conv": "short-conv", "full_attention": "attention@all", "sliding_attention": "attention@near"}
TURNING = {
    "attention@near": {"rope_type": "default", "rope_theta": 10000.0},
    "attention@all": {"rope_type": "proportional", "rope_theta": 1e6, "partial_rotary_factor": 0.5},
}
NORMS = {"recurrence_norm": ("operator_norm", "ffn_norm"), "norm_behind": ("post_operator_norm", "post_ffn_norm")}


def kinds(config: Mapping[str, Any]) -> list[str]:
    """What each layer holds to mix over time. Raises InputError for a kind that is not known."""
    usual = ["full_attention" if i % 4 == 2 else "sliding_attention" if i % 4 == 0 and i else "conv"
             for i in range(config["num_hidden_layers"])]  # fmt: skip
    return hybrid.kinds(config, "layer_types", config["layer_types"] or usual, KINDS)


def _rope(config: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    """What config.json says of how one kind of attention turns. Raises InputError for what is not implemented."""
    name, given = next(theirs for theirs, ours in KINDS.items() if ours == kind), config["rope_parameters"] or {}
    found = given.get(name) or TURNING[kind] if isinstance(given, Mapping) else given
    if not isinstance(found, Mapping) or found.get("factor", 1.0) != 1.0:
        raise InputError(f"config.json has rope_parameters {shown(found)}; expected such as {TURNING[kind]}")
    return found


def _pairs(config: Mapping[str, Any], kind: str) -> int | None:
    """Pairs of channels of a head that turn where RoPE is proportional: as in a head of which all do, half a head
    apart. None where it is not."""
    found, size = _rope(config, kind), hybrid.head_size(config)
    if found.get("rope_type") != "proportional":
        return None
    share = options.number("partial_rotary_factor", found.get("partial_rotary_factor", 1.0), 0, 1 + 1e-9)
    return int(share * size // 2)


def _turning(config: Mapping[str, Any], kind: str) -> dict[str, float]:
    """As options of our attention."""
    found, pairs, size = _rope(config, kind), _pairs(config, kind), hybrid.head_size(config)
    if pairs is None:
        return hybrid.rope({"rope_parameters": found}, size)
    base = options.number("rope_theta", found.get("rope_theta", 1e6), 1)
    return {"rotary": 2 * pairs / size, "base": base ** (2 * pairs / size)}


def model(config: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a `LanguageModel`."""
    eps, place = config["norm_eps"], {"norm_at": "both"} if config["use_sandwich_norm"] else {}
    more = {"gated": "head"} if config["use_attention_gate"] else {}
    bias = config["attention_bias"]
    layers: dict[str, dict[str, Any]] = {
        "short-conv": {"kernel": config["conv_L_cache"], "bias": config["conv_bias"], **place},
        "mlp": {"hidden": config["intermediate_size"], **place},
    }
    for kind in set(kinds(config)) - {"short-conv"}:
        window = {"window": config["sliding_window"]} if kind == "attention@near" else {}
        own = {**_turning(config, kind), **window, **more, **place, "qk_norm": "head", "norm_eps": eps}
        layers[kind] = hybrid.attention(config, bias=bias, output_bias=bias, **own)
    return hybrid.model(config, [name for kind in kinds(config) for name in (kind, "mlp")], layers, eps=eps)


def rules(config: Mapping[str, Any]) -> list[Rule]:
    """Every tensor of an LFM3."""
    result = hybrid.around(config, NAMES, NORMS["recurrence_norm"])
    for i, kind in enumerate(kinds(config)):
        layer = f"model.layers.{i}."
        if kind == "short-conv":
            result += conv_rules(config, (held(2 * i), f"{layer}conv."))
        else:
            result += _attention_rules(config, kind, (held(2 * i), f"{layer}self_attn."))
        result += hybrid.mlp_rules((held(2 * i + 1), f"{layer}feed_forward."), "w1", "w3", "w2")
        if config["use_sandwich_norm"]:
            behind = enumerate(NORMS["norm_behind"])
            result += [rule(f"blocks.{2 * i + j}.norm_behind.weight", f"{layer}{norm}.weight") for j, norm in behind]
    return result


def _attention_rules(config: Mapping[str, Any], kind: str, at: hybrid.At) -> list[Rule]:
    result = hybrid.attention_rules(at, config["attention_bias"], config["attention_bias"])
    result += [rule(f"{own}.weight", f"{own[0]}_norm.weight", at=at) for own in ("query_norm", "key_norm")]
    pairs, size = _pairs(config, kind), hybrid.head_size(config)
    if pairs is not None:  # in ours, those that turn come first
        half = size // 2
        lie = [*range(pairs), *range(half, half + pairs), *range(pairs, half), *range(half + pairs, size)]
        heads = {"to_query": config["num_attention_heads"], "to_key": config["num_key_value_heads"]}
        heads |= {"query_norm": 1, "key_norm": 1}
        for j, one in enumerate(result):
            rows = [size * head + channel for head in range(heads.get(one.ours.split(".")[-2], 0)) for channel in lie]
            result[j] = replace(one, rows=tuple(rows) or None)
    return result + ([rule("to_gate.weight", "gate_proj.weight", at=at)] if config["use_attention_gate"] else [])


LFM3 = Family(defaults=DEFAULTS, only={}, model=model, rules=rules, ignored=tied_head("lm_head.weight"))
