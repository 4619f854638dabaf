"""Checkpoints of Zamba and Zamba2: Mamba or Mamba-2, some of which are fed by transformers that they share in turn."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from recurra.errors import InputError
from recurra.interop import hybrid
from recurra.interop.family import Family
from recurra.interop.hybrid import At, held
from recurra.interop.rules import Rule, interleaved, rule, rules_of
from recurra.options import count, divisor, shown

SHARED = {
    "vocab_size": 32000, "rms_norm_eps": 1e-5, "mamba_d_conv": 4, "mamba_expand": 2, "layers_block_type": None,
    "tie_word_embeddings": True,
}  # fmt: skip
DEFAULTS = {
    **SHARED, "hidden_size": 3712, "attention_hidden_size": None, "intermediate_size": 14848, "num_hidden_layers": 76,
    "num_attention_heads": 16, "attention_head_dim": None, "num_key_value_heads": 16, "n_mamba_heads": 2,
    "attn_layer_period": 6, "attn_layer_offset": 4, "mamba_d_state": 16, "mamba_dt_rank": "auto",
    "mamba_conv_bias": True, "mamba_proj_bias": False,
}  # fmt: skip
DEFAULTS2 = {
    **SHARED, "hidden_size": 2560, "intermediate_size": None, "num_hidden_layers": 54, "num_attention_heads": 32,
    "num_key_value_heads": None, "n_mamba_heads": 8, "mamba_d_state": 64, "mamba_ngroups": 1, "time_step_min": 0.001,
    "num_mem_blocks": 1, "use_shared_attention_adapter": False, "adapter_rank": 128, "use_mem_rope": False,
    **hybrid.NO_ROPE_SCALING,
}  # fmt: skip
USUAL2 = ["mamba"] + (["mamba"] * 5 + ["hybrid"]) * 7
USUAL2 += ["mamba"] * 4 + ["hybrid"] + ["mamba"] * 3 + ["hybrid"] + ["mamba"] * 2
TIED = [True]
"""Where the head is not tied, transformers share nothing else either, and what should be one has many values."""
KINDS = {"linear_attention": "plain", "mamba": "plain", "hybrid": "fed"}


@dataclass(frozen=True)
class Kind:
    """What the two families differ in; each function is given the completed config."""

    layer: str
    """Of ours, what each block holds."""
    transformer: str
    """What they call that which feeds some of them."""
    usual: Callable[[Mapping[str, Any]], list[str]]
    """Kinds of layers where config.json does not say."""
    many: Callable[[Mapping[str, Any]], int]
    """Transformers that take turns."""
    of_layer: Callable[[Mapping[str, Any]], dict[str, Any]]
    """Options of the layer."""
    of_transformer: Callable[[Mapping[str, Any]], dict[str, Any]]
    """Options of the transformers."""
    layer_rules: Callable[[Mapping[str, Any], At], list[Rule]]
    """Where the tensors of a layer go."""
    maps: Mapping[str, str]
    """Of a transformer, ours and theirs."""
    adapters: Callable[[Mapping[str, Any]], Mapping[str, str]] = lambda config: {}
    """Which of its maps are adapted in each block, and what they call the lists of their adapters."""

    def uses(self, config: Mapping[str, Any]) -> list[int | None]:
        """Of each layer, how many are fed before it; None where it is not."""
        given = config["layers_block_type"] or self.usual(config)
        found = hybrid.kinds(config, "layers_block_type", given, KINDS)
        return [found[:i].count("fed") if kind == "fed" else None for i, kind in enumerate(found)]

    def model(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments of a `LanguageModel`. A layer there is one block here."""
        many, options = count("num_mem_blocks", self.many(config)), {self.layer: self.of_layer(config)}
        names = []
        for use in self.uses(config):
            by = None if use is None else f"transformer@{use % many}"
            names.append(self.layer if by is None else f"{by}>{self.layer}")
            if by is not None and by not in options:
                options[by] = self.of_transformer(config)
        made = hybrid.model(config, [], {}, eps=config["rms_norm_eps"])
        return made | {"pattern": "+".join(names), "layers": options}

    def rules(self, config: Mapping[str, Any]) -> list[Rule]:
        """Every tensor. That of a transformer has the name of the first layer that it feeds."""
        result = [rule("embedding.weight", "model.embed_tokens.weight")]
        result.append(rule("norm.weight", "model.final_layernorm.weight"))
        firsts: dict[int, int] = {}
        for i, use in enumerate(self.uses(config)):
            ours, theirs = held(i), f"model.layers.{i}."
            if use is None:
                result.append(rule(f"blocks.{i}.recurrence_norm.weight", f"{theirs}input_layernorm.weight"))
                result += self.layer_rules(config, (ours, f"{theirs}mamba."))
                continue
            around = {"norm.weight": "mamba_decoder.input_layernorm.weight", "to_layer.weight": "linear.weight"}
            result += rules_of(around, (ours, theirs))
            result += self.layer_rules(config, (f"{ours}layer.", f"{theirs}mamba_decoder.mamba."))
            first = firsts.setdefault(use % self.many(config), i)
            at = f"{ours}transformer.", f"model.layers.{first}.{self.transformer}."
            result += self._transformer_rules(config, at, use, first == i)
        return result

    def _transformer_rules(self, config: Mapping[str, Any], at: At, use: int, first: bool) -> list[Rule]:
        adapted, result = self.adapters(config), list[Rule]()
        for ours, theirs in self.maps.items() if first else ():
            whole = f"{ours}.whole" if ours in adapted else ours
            result.append(rule(f"{whole}.weight", " ".join(f"{one}.weight" for one in theirs.split()), at=at))
        for ours, theirs in adapted.items():
            parts = {f"{ours}.down.weight": f"{theirs}.{use}.0.weight", f"{ours}.up.weight": f"{theirs}.{use}.1.weight"}
            result += rules_of(parts, at)
        return result

    def ignored(self, config: Mapping[str, Any]) -> list[str]:
        """The head, and transformers where they stand again."""
        fed = [i for i, use in enumerate(self.uses(config)) if use is not None]
        again = [f"model.layers.{i}.{self.transformer}." for i in fed[self.many(config) :]]
        return ["lm_head.weight", *again]


def _usual(config: Mapping[str, Any]) -> list[str]:
    period, offset = count("attn_layer_period", config["attn_layer_period"]), config["attn_layer_offset"]
    more = ["hybrid" if i % period == offset else "mamba" for i in range(config["num_hidden_layers"] - 3)]
    return ["mamba", "mamba", "hybrid", *more]


def _mamba(config: Mapping[str, Any]) -> dict[str, Any]:
    rank = config["mamba_dt_rank"]
    return {
        "state_size": config["mamba_d_state"], "expand": config["mamba_expand"], "kernel": config["mamba_d_conv"],
        "rank": math.ceil(config["hidden_size"] / 16) if rank == "auto" else rank, "bias": config["mamba_proj_bias"],
        "conv_bias": config["mamba_conv_bias"], "heads": config["n_mamba_heads"],
    }  # fmt: skip


def _mamba_rules(config: Mapping[str, Any], at: At) -> list[Rule]:
    options = _mamba(config)
    heads, n, rank = options["heads"], options["state_size"], options["rank"]
    inner = options["expand"] * config["hidden_size"]
    size = inner // heads
    mixed = interleaved(2, [2] * inner)  # theirs has the gate of each channel below its signal
    result = [
        rule("to_inner.weight", "in_proj.weight", at=at, rows=mixed),
        rule("to_output.weight", "out_proj.weight", at=at),
        rule("conv_weight", "conv1d.weight", (inner, 1, options["kernel"]), at),
        rule("to_selection.weight", "x_proj_weight", (heads, rank + 2 * n, size), at),
        rule("to_dt.weight", "dt_proj_weight", (heads, size, rank), at),
        rule("to_dt.bias", "dt_proj_bias", (heads, size), at),
        rule("A_log", "A_log", (heads, size, n), at),
        rule("D", "D", (heads, size), at),
    ]
    if options["bias"]:
        result.append(rule("to_inner.bias", "in_proj.bias", at=at, rows=mixed))
        result.append(rule("to_output.bias", "out_proj.bias", at=at))
    return result + ([rule("conv_bias", "conv1d.bias", at=at)] if options["conv_bias"] else [])


def _transformer(config: Mapping[str, Any]) -> dict[str, Any]:
    both = 2 * config["hidden_size"]
    if config["attention_hidden_size"] not in (None, both):
        given = shown(config["attention_hidden_size"])
        raise InputError(f"config.json has attention_hidden_size = {given}; expected {both}, twice hidden_size")
    return {
        "heads": config["num_attention_heads"], "key_heads": config["num_key_value_heads"],
        "size": config["attention_head_dim"] or both // count("num_attention_heads", config["num_attention_heads"]),
        "hidden": config["intermediate_size"],
    }  # fmt: skip


def _mamba2(config: Mapping[str, Any]) -> dict[str, Any]:
    inner = int(config["mamba_expand"] * config["hidden_size"])
    size = inner // divisor("n_mamba_heads", config["n_mamba_heads"], inner, "mamba_expand * hidden_size")
    return {
        "state_size": config["mamba_d_state"], "head_size": size, "inner": inner, "groups": config["mamba_ngroups"],
        "kernel": config["mamba_d_conv"], "least_dt": config["time_step_min"],
        "conv_bias": True,  # whatever `use_conv_bias` says, there is one
        "eps": 1e-5,
    }  # fmt: skip


def _transformer2(config: Mapping[str, Any]) -> dict[str, Any]:
    both, heads = 2 * config["hidden_size"], config["num_attention_heads"]
    size, rank = both // count("num_attention_heads", heads), count("adapter_rank", config["adapter_rank"])
    turning = hybrid.rope(config, size) if config["use_mem_rope"] else {}
    return {
        "heads": heads, "key_heads": config["num_key_value_heads"] or heads, "size": size,
        "hidden": config["intermediate_size"] or 4 * config["hidden_size"], "rank": rank,
        "attention_rank": rank if config["use_shared_attention_adapter"] else 0, **turning,
    }  # fmt: skip


def _adapters(config: Mapping[str, Any]) -> dict[str, str]:
    kinds = {"query": "q", "key": "k", "value": "v"} if config["use_shared_attention_adapter"] else {}
    lists = {f"attention.to_{ours}": f"self_attn.linear_{letter}_adapter_list" for ours, letter in kinds.items()}
    return lists | {"mlp.to_hidden": "feed_forward.gate_up_proj_adapter_list"}


MAPS = {
    "norm": "input_layernorm", "inner_norm": "pre_ff_layernorm", "attention.to_query": "self_attn.q_proj",
    "attention.to_key": "self_attn.k_proj", "attention.to_value": "self_attn.v_proj",
    "attention.to_output": "self_attn.o_proj", "mlp.to_output": "feed_forward.down_proj",
}  # fmt: skip
OF_ZAMBA = Kind(
    layer="mamba",
    transformer="shared_transf",
    usual=_usual,
    many=lambda config: 1,
    of_layer=_mamba,
    of_transformer=_transformer,
    layer_rules=_mamba_rules,
    maps=MAPS | {"mlp.to_hidden": "feed_forward.gate_proj feed_forward.up_proj"},
)
OF_ZAMBA2 = Kind(
    layer="mamba2",
    transformer="shared_transformer",
    usual=lambda config: USUAL2,
    many=lambda config: config["num_mem_blocks"],
    of_layer=_mamba2,
    of_transformer=_transformer2,
    layer_rules=lambda config, at: hybrid.mamba2_rules(_mamba2(config), at),
    maps=MAPS | {"mlp.to_hidden": "feed_forward.gate_up_proj"},
    adapters=_adapters,
)
ZAMBA = Family(
    defaults=DEFAULTS,
    only={"hidden_act": ["gelu"], "hidden_mamba_act": ["silu"], "tie_word_embeddings": TIED},
    model=OF_ZAMBA.model,
    rules=OF_ZAMBA.rules,
    ignored=OF_ZAMBA.ignored,
)
ZAMBA2 = Family(
    defaults=DEFAULTS2,
    only={
        "hidden_act": ["gelu"], "add_bias_linear": [False], "use_long_context": [False], "tie_word_embeddings": TIED,
    },
    model=OF_ZAMBA2.model,
    rules=OF_ZAMBA2.rules,
    ignored=OF_ZAMBA2.ignored,
)  # fmt: skip
