"""What a family of checkpoints is: how its config.json describes one of our models, and where its tensors go."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from recurra.errors import InputError
from recurra.interop.rules import Rule
from recurra.options import LAYERS, MOST, count, shown


@dataclass(frozen=True)
class Family:
    """One model_type of transformers."""

    defaults: Mapping[str, Any]
    """What config.json means where it leaves a field out."""
    only: Mapping[str, list]
    """Fields that must have one of these values: others are not implemented."""
    model: Callable[[Mapping[str, Any]], dict[str, Any]]
    """From the completed config to the arguments of our `LanguageModel`."""
    rules: Callable[[Mapping[str, Any]], list[Rule]]
    """From the completed config to where every tensor goes."""
    ignored: Callable[[Mapping[str, Any]], list[str]] = lambda config: []
    """What names of tensors begin with that a checkpoint may hold and that say nothing of what is read, such as a head
    tied to the embedding."""
    aliases: Callable[[Mapping[str, Any]], Mapping[str, str]] = lambda config: {}
    """Other names under which tensors are found -> those that the rules have."""

    def complete(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The config with every field.

        Raises InputError for a value that is not implemented, or of another kind than the field has.
        """
        full = {**self.defaults, **config}
        for name, usual in self.defaults.items():
            if not _is_alike(full[name], usual):
                what = f"{name} is {shown(full[name])}; expected one such as {usual!r}"
                raise InputError(f"config.json does not describe a model: {what}")
        count("num_hidden_layers", full["num_hidden_layers"], LAYERS)
        for name, values in self.only.items():
            if name in full and full[name] not in values:
                raise InputError(f"config.json has {name} = {shown(full[name])}; only {values[0]!r} can be read")
        return full


def _is_alike(value: Any, usual: Any) -> bool:
    """Whether a value is of the kind of what is usual; what is usually left open may be anything."""
    if isinstance(usual, bool | list):
        return isinstance(value, type(usual))
    if isinstance(usual, int | float):
        return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < MOST
    return True


def head(config: Mapping[str, Any], name: str) -> list[Rule]:
    """The rule of a head's matrix that is not tied to the embedding."""
    return [] if config["tie_word_embeddings"] else [Rule("head.weight", (name,))]


def tied_head(name: str) -> Callable[[Mapping[str, Any]], list[str]]:
    """Ignores the head's matrix where it is tied to the embedding."""
    return lambda config: [name] if config["tie_word_embeddings"] else []
