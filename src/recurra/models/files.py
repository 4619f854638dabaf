"""A model as a folder: `model.safetensors` and `config.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recurra import options, sealed
from recurra.errors import InputError, one_line
from recurra.files import inside, read_json, write_atomically
from recurra.models.language_model import LanguageModel
from recurra.models.origin import Origin
from recurra.models.pattern import depth, parse

KIND = {"model_type": "recurra", "architectures": ["RecurraForCausalLM"]}
"""What tells transformers whose model a config.json describes."""

WEIGHTS = "model.safetensors"

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
"""Of what a model computes with."""

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
    if model.origin is not None:
        config["origin"] = model.origin.config
    try:
        json.dumps(config)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"about is {options.shown(about)}; expected data that JSON can hold: {error}") from error
    folder.mkdir(parents=True, exist_ok=True)
    if model.origin is not None:
        model.origin.write_files(folder)
    facts = {"format": "pt", CONFIG: json.dumps(model.config), TIED: json.dumps(_tied(model))}
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
    model = outline(config.get("model"), folder / "config.json", len(found))
    # transformers' save_pretrained writes what is here `embedding.weight` as `model.embedding.weight`.
    tensors = {name.removeprefix("model."): tensor for name, tensor in found.items()}
    if reason := misfit(model.state_dict(), tensors):
        raise InputError(f"{folder / WEIGHTS} does not fit config.json: {reason}")
    if reason := _change(facts.get(CONFIG, "{}"), model.config):
        raise InputError(f"{folder / 'config.json'} is not the one that {WEIGHTS} was written with: {reason}")
    model.load_state_dict(tensors, assign=True)
    _tie(model, facts.get(TIED, "{}"), folder / WEIGHTS)
    origin = Origin.read(folder, config.get("origin"))
    if origin.config or origin.files:
        model.origin = origin
    return model.eval()


def outline(config: Any, path: Path, tensors: int) -> LanguageModel:
    """The model that a config describes, without memory: its tensors have shapes and no values.

    Args:
        path: of the file it came from.
        tensors: there are for it; a config that asks for more layers is not followed that far.

    Raises InputError that names the file if it describes no model.
    """
    try:
        if isinstance(config, Mapping) and "pattern" in config:
            asked = depth(parse(config["pattern"]), config.get("layers") or {})
            if asked > tensors:
                raise InputError(f"it asks for {asked} layers, and there are {tensors} tensors")
        with torch.device("meta"):
            return LanguageModel.from_config(config)
    except Exception as error:  # of any kind: what a file asks for may be too large, too deep, or of no sense
        raise InputError(f"{path} does not describe a model: {one_line(error)}") from error


def misfit(expected: Mapping[str, Tensor], given: Mapping[str, object]) -> str | None:
    """How `given` tensors differ from those of a model in names, shapes or kinds of numbers, or None."""
    if missing := sorted(expected.keys() - given.keys()):
        return f"there is no tensor {missing[0]!r}" + (f", nor {len(missing) - 1} others" if missing[1:] else "")
    if strange := sorted(given.keys() - expected.keys()):
        return f"there is no place for the tensor {strange[0]!r}"
    for name, own in expected.items():
        value = given[name]
        if not isinstance(value, Tensor):
            return f"{name!r} is {options.shown(value)}; expected a tensor"
        if value.shape != own.shape:
            return f"{name!r} is {list(value.shape)}; expected {list(own.shape)}"
        kinds = DTYPES if own.is_floating_point() else (own.dtype,)
        if value.dtype not in kinds:
            found = f"it holds weights of {str(value.dtype)[6:]}"
            return f"{found}; expected one of {', '.join(map(str, kinds))} for {name!r}"
    return None


def tensors_of(model: LanguageModel) -> dict[str, Tensor]:
    """The state_dict of a model. Raises InputError if it is none, or no longer what its config describes: what would be
    written could not be read."""
    options.instance("model", model, LanguageModel)
    tensors = model.state_dict()
    if reason := misfit(outline(model.config, Path("config"), len(tensors)).state_dict(), tensors):
        raise InputError(
            f"model is not what its config describes: {reason}; merge adapters, and take off what else was put around "
            "its weights, before saving"
        )
    return tensors


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


def _tied(model: LanguageModel) -> dict[str, str]:
    """Names of parameters that are one with another, and of that."""
    first: dict[int, str] = {}
    named = model.named_parameters(remove_duplicate=False)
    return {name: one for name, p in named if (one := first.setdefault(id(p), name)) != name}


def _tie(model: LanguageModel, text: str, path: Path) -> None:
    """The inverse of `_tied`."""
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


def write_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Write config.json."""
    write_atomically(folder / "config.json", json.dumps(config, indent=2) + "\n")
