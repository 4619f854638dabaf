"""A model as a folder: `model.safetensors` and `config.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from recurra import options, sealed
from recurra.errors import InputError, one_line
from recurra.files import inside, read_json
from recurra.models.language_model import LanguageModel
from recurra.models.origin import Origin
from recurra.models.outline import is_own, misfit, outline, tensors_of, tied, widen, write_config
from recurra.models.pattern import kinds
from recurra.registry import origins

KIND = {"model_type": "recurra", "architectures": ["RecurraForCausalLM"]}
"""What tells transformers whose model a config.json describes."""

WEIGHTS = "model.safetensors"

OWN = "own_layers"
"""In config.json, what `--import` takes to have the layers of a model that are not the library's."""

CONFIG, TIED = sealed.OWN + "model", sealed.OWN + "tied"
"""Facts in model.safetensors: the model's config, as in config.json; names of parameters that are one with another."""


def save(model: LanguageModel, folder: str | Path, about: Mapping[str, Any] | None = None) -> None:
    """Write the model into `folder`, which is made if missing; each file appears whole or not at all.

    Args:
        about: plain data to keep beside the model's own config in config.json.

    Raises:
        InputError: an argument is of another type, or the model is no longer what its config describes.
        OSError: the folder cannot be written; what was there before is whole.
    """
    tensors = tensors_of(model)
    folder = options.path("folder", folder)
    about = {} if about is None else about
    if not isinstance(about, Mapping):
        raise InputError(f"about is {options.shown(about)}; expected a dict of data that JSON can hold")
    config = KIND | {"model": model.config} | dict(about)
    if own := origins(kinds(model.config["pattern"])):
        config[OWN] = own
    if model.origin is not None:
        config["origin"] = model.origin.config
    try:
        json.dumps(config)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"about is {options.shown(about)}; expected data that JSON can hold: {error}") from error
    folder.mkdir(parents=True, exist_ok=True)
    if model.origin is not None:
        model.origin.write_files(folder)
    facts = {"format": "pt", CONFIG: json.dumps(model.config), TIED: json.dumps(tied(model))}
    sealed.write(folder / WEIGHTS, "model", tensors, facts)
    write_config(folder, config)


def load(folder: str | Path) -> LanguageModel:
    """Read a model, in the types it was saved in and set to evaluate.

    Args:
        folder: what `save` or a training run wrote, or `save_pretrained` of transformers for one of the families in
            `recurra.interop`; transformers need not be installed.

    Raises InputError, naming the file, if one is missing, damaged or of something else, or `folder` is no path.
    """
    from recurra.interop.checkpoint import read_tensors
    from recurra.interop.convert import from_transformers

    folder = options.path("folder", folder)
    config = read_config(folder)
    if "model" not in config and config.get("model_type", "recurra") != "recurra":
        return from_transformers(folder, config)
    found, facts = read_tensors(folder)
    model = outline(config.get("model"), folder / "config.json", len(found), config.get(OWN))
    # transformers' save_pretrained writes what is here `embedding.weight` as `model.embedding.weight`.
    tensors = {name.removeprefix("model."): tensor for name, tensor in found.items()}
    widen(model, tensors)
    if reason := misfit(model.state_dict(), tensors):
        raise InputError(f"{folder / WEIGHTS} does not fit config.json: {reason}")
    if reason := _change(facts.get(CONFIG, "{}"), model.config):
        raise InputError(f"{folder / 'config.json'} is not the one that {WEIGHTS} was written with: {reason}")
    if is_own(model):
        with torch.random.fork_rng(devices=[]):
            model = LanguageModel.from_config(config["model"])
    model.load_state_dict(tensors, assign=True)
    _tie(model, facts.get(TIED, "{}"), folder / WEIGHTS)
    origin = Origin.read(folder, config.get("origin"))
    if origin.config or origin.files:
        model.origin = origin
    return model.eval()


def _change(written: str, config: Mapping[str, Any]) -> str | None:
    """The first field of the config that was written with the weights that has another value now, or None."""
    try:
        before, now = json.loads(written), json.loads(json.dumps(config))
        before, now = before | before.pop("design", {}), now | now.pop("design")
        for name, value in before.items():
            if name not in now or now[name] != value:
                return f"{name} was {options.shown(value)}, not {options.shown(now.get(name))}"
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        return one_line(error)
    return None


def _tie(model: LanguageModel, text: str, path: Path) -> None:
    """The inverse of `tied`."""
    own = dict(model.named_parameters(remove_duplicate=False))
    try:
        for name, first in json.loads(text).items():
            if own[name].shape != own[first].shape:
                raise ValueError(f"{name!r} and {first!r} cannot be one")
            owner, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(owner), leaf, own[first])
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path} is none of ours: {one_line(error)}") from error


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of a folder. Raises InputError if it is missing or no JSON object."""
    try:
        return read_json(inside(folder, "config.json"))
    except FileNotFoundError as error:
        raise InputError(
            f"{folder} holds no config.json; expected the folder of a model or of a finished training run"
        ) from error
    except (OSError, ValueError) as error:
        raise InputError(f"{folder / 'config.json'} does not describe a model: {one_line(error)}") from error
