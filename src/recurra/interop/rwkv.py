"""Checkpoints of RWKV-4. A layer there is two blocks here: time mixing, then channel mixing.

transformers halve what flows past the layers, and the matrices that add to it, every `rescale_every` layers when they
evaluate, so that float16 does not overflow. The paper does not, nor is it done here: but for `eps` in the norms it
changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recurra.interop.family import Family, head, tied_head
from recurra.interop.rules import Rule, rule

DEFAULTS = {
    "vocab_size": 50277, "hidden_size": 4096, "num_hidden_layers": 32, "attention_hidden_size": None,
    "intermediate_size": None, "layer_norm_epsilon": 1e-5, "tie_word_embeddings": False,
}  # fmt: skip


def model(config: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a `LanguageModel`."""
    return {
        "vocabulary": config["vocab_size"],
        "width": config["hidden_size"],
        "pattern": "+".join(["rwkv4+rwkv4-channel-mix"] * config["num_hidden_layers"]),
        "mlp": 0,
        "layers": {
            "rwkv4": {"hidden": config["attention_hidden_size"]},
            "rwkv4-channel-mix": {"hidden": config["intermediate_size"]},
        },
        "design": {
            "norm": "layer", "eps": config["layer_norm_epsilon"], "embedding_norm": True, "scale": 1.0,
            "tied": config["tie_word_embeddings"],
        },
    }  # fmt: skip


def rules(config: Mapping[str, Any]) -> list[Rule]:
    """Every tensor of an RWKV-4."""
    mix, result = (1, 1, config["hidden_size"]), [rule("embedding.weight", "rwkv.embeddings.weight")]
    result += head(config, "head.weight")
    for end in ("weight", "bias"):
        result.append(rule(f"embedding_norm.{end}", f"rwkv.blocks.0.pre_ln.{end}"))
        result.append(rule(f"norm.{end}", f"rwkv.ln_out.{end}"))
    for i in range(config["num_hidden_layers"]):
        time, channel = f"blocks.{2 * i}.", f"blocks.{2 * i + 1}."
        for end in ("weight", "bias"):
            result.append(rule(f"{time}recurrence_norm.{end}", f"rwkv.blocks.{i}.ln1.{end}"))
            result.append(rule(f"{channel}recurrence_norm.{end}", f"rwkv.blocks.{i}.ln2.{end}"))
        at = f"{time}recurrence.", f"rwkv.blocks.{i}.attention."
        result += [rule("decay", "time_decay", at=at), rule("first", "time_first", at=at)]
        result.append(rule("to_output.weight", "output.weight", at=at))
        result += [
            _mixed(letter, name, mix, at) for letter, name in (("k", "key"), ("v", "value"), ("r", "receptance"))
        ]
        result += [rule(f"to_{name[0]}.weight", f"{name}.weight", at=at) for name in ("key", "value", "receptance")]
        at = f"{channel}recurrence.", f"rwkv.blocks.{i}.feed_forward."
        result += [_mixed(letter, name, mix, at) for letter, name in (("k", "key"), ("r", "receptance"))]
        result += [rule(f"to_{name[0]}.weight", f"{name}.weight", at=at) for name in ("key", "value", "receptance")]
    return result


def _mixed(letter: str, name: str, shape: tuple[int, ...], at: tuple[str, str]) -> Rule:
    return rule(f"mix_{letter}", f"time_mix_{name}", shape, at)


RWKV = Family(
    defaults=DEFAULTS,
    only={"layer_norm_epsilon": [1e-5]},  # transformers use no other in the last norm
    model=model,
    rules=rules,
    ignored=tied_head("head.weight"),
)
