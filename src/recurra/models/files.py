"""A model as a folder: `model.safetensors` and `config.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recurra.errors import InputError
from recurra.files import write_atomically
from recurra.models.language_model import LanguageModel


def save(model: LanguageModel, folder: str | Path, about: Mapping[str, Any] | None = None) -> None:
    """Write the model into `folder`, which is made if missing; each file appears whole or not at all.

    Args:
        about: plain data to keep beside the model's own config in config.json.

    Raises:
        OSError: the folder cannot be written; what was there before is whole.
    """
    from safetensors.torch import save as to_bytes

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "config.json", json.dumps({"model": model.config, **(about or {})}, indent=2) + "\n")
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    write_atomically(folder / "model.safetensors", to_bytes(tensors))


def load(folder: str | Path) -> LanguageModel:
    """Read a model that `save` or a training run wrote, in the dtype it was saved in and set to evaluate.

    Raises InputError, naming the file, if one is missing, damaged or of something else.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(folder)
    config, weights = folder / "config.json", folder / "model.safetensors"
    for path in (config, weights):
        if not path.is_file():
            raise InputError(f"{folder} holds no {path.name}; expected the folder of a finished training run")
    try:
        model = LanguageModel.from_config(json.loads(config.read_text())["model"])
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise InputError(f"{config} does not describe a model: {_one_line(error)}") from error
    try:
        tensors = load_file(weights)
        model.to(tensors["embedding.weight"].dtype).load_state_dict(tensors)
    except (SafetensorError, RuntimeError, KeyError, TypeError, OSError) as error:
        raise InputError(f"{weights} does not fit {config.name}: {_one_line(error)}") from error
    return model.eval()


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
