"""What families share whose blocks hold either a recurrence or attention, and then an MLP or experts.

A layer there is two blocks here, 2 i and 2 i + 1: what mixes over time, and what mixes channels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from recurra import options
from recurra.errors import InputError
from recurra.interop.family import head
from recurra.interop.rules import Rule, rule
from recurra.options import shown

UNLIMITED = [[0.0, float("inf")], [0.0, {"__float__": "Infinity"}], None]
"""How config.json writes time steps that are not clamped."""
RECURRENT, ATTENTIVE = ("linear_attention", "mamba", "hybrid"), ("full_attention", "attention")
"""Their kinds of layers, of today and before."""

NO_ROPE_SCALING: dict[str, Any] = {"rope_parameters": None, "rope_theta": None, "rope_scaling": None}
"""Defaults of what `rope` reads."""

At = tuple[str, str]


def model(config: Mapping[str, Any], blocks: Iterable[str], layers: Mapping[str, Any], **design: Any) -> dict[str, Any]:
    """Arguments of a `LanguageModel` of such blocks, without MLPs of its own.

    Args:
        blocks: what they hold; a name with a label has options of its own, and stands for another layer in every block.
        layers: options by these names.
    """
    names, options = list[str](), dict[str, Any]()
    for i, block in enumerate(blocks):
        own = [f"{one}-{i}" if "@" in one else one for one in block.split("|")]
        options |= {name: layers[one] for name, one in zip(own, block.split("|"), strict=True) if one in layers}
        names.append("|".join(own))
    return {
        "vocabulary": config["vocab_size"],
        "width": config["hidden_size"],
        "pattern": "+".join(names),
        "mlp": 0,
        "layers": options,
        "design": {"scale": 1.0, "tied": config["tie_word_embeddings"], **design},
    }


def kinds(config: Mapping[str, Any], field: str, given: Any, known: Mapping[str, str]) -> list[str]:
    """Of each layer, what `known` says of its kind. Raises InputError for another kind, or another number of layers."""
    if not isinstance(given, list) or len(given) != config["num_hidden_layers"]:
        raise InputError(f"config.json has {field} = {shown(given)}; expected a kind for each of num_hidden_layers")
    if unknown := [kind for kind in given if not isinstance(kind, str) or kind not in known]:
        raise InputError(f"config.json has {shown(unknown[0])} in {field}; expected one of {', '.join(known)}")
    return [known[kind] for kind in given]


def rope(config: Mapping[str, Any], size: int, base: float = 10000.0, share: float = 1.0) -> dict[str, float]:
    """What turns, as options of our attention, whose heads have `size` channels.

    Raises InputError for kinds of RoPE that are not implemented, and an odd number of channels.
    """
    found = {"rope_theta": config.get("rope_theta"), "partial_rotary_factor": config.get("partial_rotary_factor")}
    for name in ("rope_scaling", "rope_parameters"):
        given = config.get(name)
        if given is not None and not isinstance(given, Mapping):
            raise InputError(f"config.json has {name} = {shown(given)}; expected a mapping")
        found |= given or {}
    kind = found.get("rope_type", found.get("type", "default"))
    if kind != "default":
        raise InputError(f"config.json has rope_type {shown(kind)}; only 'default' can be read")
    share = share if found["partial_rotary_factor"] is None else found["partial_rotary_factor"]
    turning = int(size * share)
    if turning % 2:
        raise InputError(f"config.json has {turning} channels of a head turn by RoPE; only an even number can be read")
    return {"rotary": turning / size, "base": base if found["rope_theta"] is None else found["rope_theta"]}


def head_size(config: Mapping[str, Any]) -> int:
    """Channels of a head of attention."""
    return config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]


def attention(config: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """Options of our attention; without `rotary` among them nothing turns."""
    return {
        "heads": config["num_attention_heads"],
        "key_heads": config["num_key_value_heads"] or config["num_attention_heads"],
        "size": head_size(config),
        "rotary": 0.0,
        **more,
    }


def around(config: Mapping[str, Any], names: Mapping[str, str], norms: tuple[str, str]) -> list[Rule]:
    """Everything but what blocks hold.

    Args:
        names: of theirs: `embedding`, `norm`, and `layers`, in which the number of a layer is to be put.
        norms: theirs, before what mixes over time and before what mixes channels.
    """
    result = [rule("embedding.weight", names["embedding"]), rule("norm.weight", names["norm"])]
    result += head(config, "lm_head.weight")
    for i in range(config["num_hidden_layers"]):
        for j, norm in enumerate(norms):
            result.append(
                rule(f"blocks.{2 * i + j}.recurrence_norm.weight", f"{names['layers'].format(i)}{norm}.weight")
            )
    return result


LLAMA = {"embedding": "model.embed_tokens.weight", "norm": "model.norm.weight", "layers": "model.layers.{}."}
"""Names that many families have."""


def held(block: int, part: int | None = None) -> str:
    """What names of ours begin with in a block; with a part of it, where it holds several or has a gain."""
    return f"blocks.{block}.recurrence." + ("" if part is None else f"layers.{part}.")


def attention_rules(at: At, bias: bool = False, output_bias: bool = False, output: str = "o_proj") -> list[Rule]:
    """The maps of attention."""
    maps = {"to_query": "q_proj", "to_key": "k_proj", "to_value": "v_proj", "to_output": output}
    result = [rule(f"{ours}.weight", f"{theirs}.weight", at=at) for ours, theirs in maps.items()]
    biased = [ours for ours in maps if (output_bias if ours == "to_output" else bias)]
    return result + [rule(f"{ours}.bias", f"{maps[ours]}.bias", at=at) for ours in biased]


def mlp_rules(
    at: At, gate: str = "gate_proj", value: str = "up_proj", out: str = "down_proj", bias: bool = False
) -> list[Rule]:
    """A gated MLP; without a gate's name, a plain one."""
    into = f"{gate}.{{0}} {value}.{{0}}" if gate else f"{value}.{{0}}"
    ends = ("weight", "bias") if bias else ("weight",)
    result = [rule(f"to_hidden.{end}", into.format(end), at=at) for end in ends]
    return result + [rule(f"to_output.{end}", f"{out}.{end}", at=at) for end in ends]


def expert_rules(
    at: At, experts: int, hidden: int, inner: int, router: str, into: str = "gate_proj up_proj", out: str = "down_proj"
) -> list[Rule]:
    """Experts of which each has tensors of its own, `hidden` wide, that read `inner` channels."""
    each = [f"experts.{e}.{name}.weight" for e in range(experts) for name in into.split()]
    return [
        rule("to_scores.weight", router, at=at),
        rule("to_hidden", " ".join(each), (hidden, inner), at),
        rule("to_output", " ".join(f"experts.{e}.{out}.weight" for e in range(experts)), (inner, hidden), at),
    ]


def mamba2(config: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """Options of our Mamba-2 from fields that begin with `mamba_`. Raises InputError where sizes do not fit."""
    inner = int(config["mamba_expand"] * config["hidden_size"])
    heads, size = options.count("mamba_n_heads", config["mamba_n_heads"]), config["mamba_d_head"]
    inner = more.pop("inner", None) or inner
    size = inner // heads if size == "auto" else options.count("mamba_d_head", size)
    if heads * size != inner:
        raise InputError(f"config.json has mamba_n_heads * mamba_d_head = {heads * size}; expected {inner}")
    return {
        "state_size": config["mamba_d_state"], "head_size": size, "inner": inner, "groups": config["mamba_n_groups"],
        "kernel": config["mamba_d_conv"], "conv_bias": config["mamba_conv_bias"], **more,
    }  # fmt: skip


def mamba2_rules(options: Mapping[str, Any], at: At) -> list[Rule]:
    """A Mamba-2 of these options."""
    signal = options["inner"] + 2 * options["groups"] * options["state_size"]
    names = {"to_inner.weight": "in_proj.weight", "to_output.weight": "out_proj.weight"}
    names |= {name: name for name in ("dt_bias", "A_log", "D")}
    if options.get("normed", True):
        names["norm_weight"] = "norm.weight"
    if options["conv_bias"]:
        names["conv_bias"] = "conv1d.bias"
    result = [rule(ours, theirs, at=at) for ours, theirs in names.items()]
    return [*result, rule("conv_weight", "conv1d.weight", (signal, 1, options["kernel"]), at)]
