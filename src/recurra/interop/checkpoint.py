"""The tensors of a folder: one safetensors file, or several with an index. Nothing is ever unpickled."""

from __future__ import annotations

import json
from pathlib import Path

from torch import Tensor

from recurra.errors import InputError

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """Every tensor in `folder`, by name.

    Raises InputError, naming the file, if one is missing or damaged, or if the weights are pickled.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    tensors: dict[str, Tensor] = {}
    for path in _files(folder):
        if not path.is_file():
            raise InputError(f"{folder} holds no {path.name}, which {INDEX} names; fetch it again")
        try:
            tensors |= load_file(path)
        except (SafetensorError, OSError, ValueError) as error:
            raise InputError(f"{path} does not fit config.json: {str(error).splitlines()[0]}") from error
    return tensors


def _files(folder: Path) -> list[Path]:
    """The safetensors files of a folder."""
    if (folder / WHOLE).is_file():
        return [folder / WHOLE]
    if (folder / INDEX).is_file():
        try:
            names = sorted(set(json.loads((folder / INDEX).read_text())["weight_map"].values()))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{folder / INDEX} is not an index of safetensors files: {error}") from error
        if any(not isinstance(name, str) or Path(name).name != name for name in names):
            raise InputError(f"{folder / INDEX} names files outside its folder: {names}")
        return [folder / name for name in names]
    if pickled := sorted(path.name for path in folder.glob("pytorch_model*.bin")):
        raise InputError(
            f"{folder} holds its weights as {pickled[0]}, a pickle, which can run any code and is not read; where you "
            "trust it, convert it: from_pretrained(folder) and save_pretrained(folder) of transformers"
        )
    raise InputError(f"{folder} holds no {WHOLE}; expected the folder of a model or of a finished training run")
