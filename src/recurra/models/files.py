"""A model as a folder: `model.safetensors` and `config.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recurra import options
from recurra.errors import InputError
from recurra.files import write_atomically
from recurra.models.language_model import LanguageModel
from recurra.models.origin import Origin

KIND = {"model_type": "recurra", "architectures": ["RecurraForCausalLM"]}
"""What tells transformers whose model a config.json describes."""

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def save(model: LanguageModel, folder: str | Path, about: Mapping[str, Any] | None = None) -> None:
    """Write the model into `folder`, which is made if missing; each file appears whole or not at all.

    Args:
        about: plain data to keep beside the model's own config in config.json.

    Raises:
        InputError: an argument is of another type.
        OSError: the folder cannot be written; what was there before is whole.
    """
    options.instance("model", model, LanguageModel)
    folder = options.path("folder", folder)
    about = {} if about is None else about
    if not isinstance(about, Mapping):
        raise InputError(f"about is {options.shown(about)}; expected a dict of data that JSON can hold")
    config = KIND | {"model": model.config} | dict(about)
    if model.origin is not None:
        config["origin"] = model.origin.config
    try:
        json.dumps(config)
    except (TypeError, ValueError) as error:
        raise InputError(f"about is {options.shown(about)}; expected data that JSON can hold: {error}") from error
    folder.mkdir(parents=True, exist_ok=True)
    if model.origin is not None:
        model.origin.write_files(folder)
    write_config(folder, config)
    write_tensors(folder, model.state_dict())


def load(folder: str | Path) -> LanguageModel:
    """Read a model, in the dtype it was saved in and set to evaluate.

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
    try:
        model = LanguageModel.from_config(config["model"])
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        raise InputError(f"{folder / 'config.json'} does not describe a model: {_one_line(error)}") from error
    weights = folder / "model.safetensors"
    # transformers' save_pretrained writes what is here `embedding.weight` as `model.embedding.weight`.
    tensors = {name.removeprefix("model."): tensor for name, tensor in read_tensors(folder).items()}
    try:
        model.to(dtype_of(tensors, folder)).load_state_dict(tensors)
    except (RuntimeError, KeyError, TypeError) as error:
        raise InputError(f"{weights} does not fit config.json: {_one_line(error)}") from error
    origin = Origin.read(folder, config.get("origin"))
    if origin.config or origin.files:
        model.origin = origin
    return model.eval()


def dtype_of(tensors: Mapping[str, Tensor], folder: Path) -> torch.dtype:
    """The dtype of a model with these tensors: that of its embedding. Raises InputError if no model computes in it."""
    dtype = tensors["embedding.weight"].dtype
    if dtype not in DTYPES:
        raise InputError(f"{folder} holds weights of {str(dtype)[6:]}; expected one of {', '.join(map(str, DTYPES))}")
    return dtype


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of a folder. Raises InputError if it is missing or no JSON object."""
    path = folder / "config.json"
    if not path.is_file():
        raise InputError(f"{folder} holds no config.json; expected the folder of a model or of a finished training run")
    try:
        config = json.loads(path.read_text())
        if not isinstance(config, dict):
            raise ValueError(f"it holds {type(config).__name__}, expected an object")
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} does not describe a model: {_one_line(error)}") from error
    return config


def write_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Write config.json."""
    write_atomically(folder / "config.json", json.dumps(config, indent=2) + "\n")


def write_tensors(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write model.safetensors, marked as transformers expect it."""
    from safetensors.torch import save as to_bytes

    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_atomically(folder / "model.safetensors", to_bytes(plain, {"format": "pt"}))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
