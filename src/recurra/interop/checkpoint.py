"""The tensors of a folder: one safetensors file, or several with an index. Nothing is ever unpickled."""

from __future__ import annotations

import os
from pathlib import Path

from torch import Tensor

from recurra import sealed
from recurra.errors import InputError, one_line
from recurra.files import inside, read_json
from recurra.options import shown

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"


def read_tensors(folder: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Every tensor in `folder`, by name, and what its files say about them.

    Raises InputError, naming the file, if one is missing or damaged, or if the weights are pickled.
    """
    tensors: dict[str, Tensor] = {}
    facts: dict[str, str] = {}
    for name in _files(folder):
        if not os.path.exists(folder / name):
            raise InputError(f"{folder} holds no {name}, which {INDEX} names; fetch it again")
        fails = f"{folder / name} does not fit config.json"
        try:
            path = inside(folder, name)
        except ValueError as error:
            raise InputError(f"{fails}: {error}") from error
        more, said = sealed.read(path, fails, needed=False)
        tensors |= more
        facts |= said
    return tensors, facts


def _files(folder: Path) -> list[str]:
    """The names of the safetensors files of a folder."""
    if os.path.exists(folder / WHOLE):
        return [WHOLE]
    if os.path.exists(folder / INDEX):
        try:
            names = read_json(inside(folder, INDEX))["weight_map"].values()
            for name in names:
                if not isinstance(name, str) or "\0" in name or Path(name).name != name or len(name) > 255:
                    raise ValueError(f"it names {shown(name)}, which is no file beside it")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{folder / INDEX} is not an index of safetensors files: {one_line(error)}") from error
        return sorted(set(names))
    if pickled := sorted(path.name for path in folder.glob("pytorch_model*.bin")):
        raise InputError(
            f"{folder} holds its weights as {pickled[0]}, a pickle, which can run any code and is not read; where you "
            "trust it, convert it: from_pretrained(folder) and save_pretrained(folder) of transformers"
        )
    raise InputError(f"{folder} holds no {WHOLE}; expected the folder of a model or of a finished training run")
