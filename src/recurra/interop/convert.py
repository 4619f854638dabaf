"""Folders of transformers to models of ours, and back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from recurra import options
from recurra.errors import InputError
from recurra.interop.checkpoint import read_tensors
from recurra.interop.family import Family
from recurra.interop.mamba import FALCON_MAMBA, MAMBA
from recurra.interop.mamba2 import MAMBA2
from recurra.interop.recurrent_gemma import RECURRENT_GEMMA
from recurra.interop.rules import to_ours, to_theirs
from recurra.interop.rwkv import RWKV
from recurra.interop.xlstm import XLSTM
from recurra.models.files import dtype_of, write_config, write_tensors
from recurra.models.language_model import LanguageModel
from recurra.models.origin import Origin

FAMILIES = {
    "mamba": MAMBA,
    "falcon_mamba": FALCON_MAMBA,
    "mamba2": MAMBA2,
    "recurrent_gemma": RECURRENT_GEMMA,
    "rwkv": RWKV,
    "xlstm": XLSTM,
}
"""model_type in config.json -> how it is read."""


def family_of(config: Mapping[str, Any]) -> Family:
    """The family that config.json names. Raises InputError for one that is not known."""
    kind = config.get("model_type")
    if kind not in FAMILIES:
        raise InputError(f"config.json has model_type = {kind!r}; expected one of {', '.join(FAMILIES)}")
    return FAMILIES[kind]


def from_transformers(folder: Path, config: Mapping[str, Any]) -> LanguageModel:
    """The model in a folder of transformers, in the dtype of its embedding and set to evaluate.

    Raises InputError if config.json or a tensor is not what the family has.
    """
    family = family_of(config)
    full = family.complete(config)
    try:
        arguments, rules = family.model(full), family.rules(full)
        with torch.device("meta"):  # no memory, no initialisation: every tensor comes from the file
            model = LanguageModel(**arguments)
    except (TypeError, ValueError, KeyError) as error:
        raise InputError(f"{folder / 'config.json'} does not describe a model: {error}") from error
    theirs = read_tensors(folder)
    for name in family.ignored(full):
        theirs.pop(name, None)
    ours = to_ours(rules, theirs, model.state_dict())
    model.load_state_dict(ours, assign=True)
    model.to(dtype_of(ours, folder))
    model.origin = Origin.read(folder, dict(config))
    return model.eval()


def to_transformers(model: LanguageModel, folder: str | Path) -> None:
    """Write a model that was once read from a folder of transformers as such a folder again.

    Raises InputError if the model came from elsewhere.
    """
    options.instance("model", model, LanguageModel)
    config = None if model.origin is None else model.origin.config
    if model.origin is None or config is None:
        raise InputError(
            "the model was not read from a folder of transformers, none of whose models it is; "
            "after `import recurra`, transformers load the folder as it is"
        )
    family, folder = family_of(config), options.path("folder", folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder, to_theirs(family.rules(family.complete(config)), model.state_dict()))
    dtype = str(model.embedding.weight.dtype).removeprefix("torch.")
    named = {name: dtype for name in ("dtype", "torch_dtype") if name in config}
    write_config(folder, {**config, **named})
    model.origin.write_files(folder)
