"""A model as a folder: `model.safetensors` and `config.json`."""

from __future__ import annotations

import json
from pathlib import Path

from recurra.errors import InputError
from recurra.files import write_atomically
from recurra.models.language_model import LanguageModel


def save(model: LanguageModel, folder: str | Path) -> None:
    """Write the model into an existing folder; each file appears whole or not at all."""
    from safetensors.torch import save as to_bytes

    folder = Path(folder)
    write_atomically(folder / "config.json", json.dumps({"model": model.config}, indent=2) + "\n")
    tensors = {name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()}
    write_atomically(folder / "model.safetensors", to_bytes(tensors))


def load(folder: str | Path) -> LanguageModel:
    """Read a model that `save` or a training run wrote. Raises InputError, naming the file, if that cannot be done."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(folder)
    config, weights = folder / "config.json", folder / "model.safetensors"
    for path in (config, weights):
        if not path.is_file():
            raise InputError(f"{folder} holds no {path.name}; expected the folder of a finished training run")
    try:
        model = LanguageModel.from_config(json.loads(config.read_text())["model"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{config} does not describe a model: {error}") from error
    try:
        model.load_state_dict(load_file(weights))
    except (SafetensorError, RuntimeError, OSError) as error:
        raise InputError(f"{weights} does not fit {config.name}: {str(error).splitlines()[0]}") from error
    return model.eval()
