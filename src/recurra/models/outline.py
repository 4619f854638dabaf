"""What a config describes: its outline without memory, and whether tensors fit it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recurra import options
from recurra.errors import InputError, one_line
from recurra.files import write_atomically
from recurra.models.language_model import LanguageModel
from recurra.models.pattern import depth, parse
from recurra.nn.linear import Linear
from recurra.registry import Unregistered, from_a_file

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
"""Of what a model computes with."""


def outline(config: Any, path: Path, tensors: int, origins: Any = None) -> LanguageModel:
    """The model that a config describes, without memory: its tensors have shapes and no values.

    Args:
        path: of the file it came from.
        tensors: there are for it; a config that asks for more layers is not followed that far.
        origins: where layers that are not the library's are said to come from.

    Raises InputError that names the file if it describes no model.
    """
    try:
        if isinstance(config, Mapping) and "pattern" in config:
            with from_a_file(origins):
                asked = depth(parse(config["pattern"]), config.get("layers") or {})
            if asked > tensors:
                raise InputError(f"it asks for {asked} layers, and there are {tensors} tensors")
        with torch.device("meta"):
            return LanguageModel.from_config(config)
    except Unregistered as error:
        raise InputError(f"{path}: {error}") from error
    except Exception as error:  # of any kind: what a file asks for may be too large, too deep, or of no sense
        raise InputError(f"{path} does not describe a model: {one_line(error)}") from error


def is_own(model: LanguageModel) -> bool:
    """Whether parts of a model are not of the library: what these keep beside their state_dict, such as buffers that
    are not saved, has values only if they are built."""
    return any(type(part).__module__.partition(".")[0] not in ("recurra", "torch") for part in model.modules())


def widen(model: LanguageModel, tensors: Mapping[str, object]) -> None:
    """Give an outline the maps behind layers that give other channels than they take, as large as `tensors` say: what a
    layer gives is found by running it, and an outline runs nothing."""
    for i, block in enumerate(model.blocks):
        given = tensors.get(f"blocks.{i}.join.weight")
        if isinstance(given, Tensor) and given.dim() == 2:
            with torch.device("meta"):
                block.join = Linear(given.shape[1], model.width, bias=False)


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


def tied(model: LanguageModel) -> dict[str, str]:
    """Names of parameters that are one with another, and of that."""
    first: dict[int, str] = {}
    named = model.named_parameters(remove_duplicate=False)
    return {name: one for name, p in named if (one := first.setdefault(id(p), name)) != name}


def tensors_of(model: LanguageModel) -> dict[str, Tensor]:
    """The state_dict of a model. Raises InputError if it is none, or no longer what its config describes: what would be
    written could not be read."""
    options.instance("model", model, LanguageModel)
    tensors = model.state_dict()
    described = outline(model.config, Path("config"), len(tensors))
    widen(described, tensors)
    if reason := misfit(described.state_dict(), tensors):
        raise InputError(
            f"model is not what its config describes: {reason}; merge adapters, and take off what else was put around "
            "its weights, before saving"
        )
    return tensors


def write_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Write config.json."""
    write_atomically(folder / "config.json", json.dumps(config, indent=2) + "\n")
