"""Checkpoints: all that a run needs to go on to the same weights, in one safetensors file."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from recurra.errors import InputError
from recurra.files import write_atomically
from recurra.models.language_model import LanguageModel
from recurra.state import State
from recurra.training.config import TrainConfig


def save(
    path: Path, model: LanguageModel, optimiser: torch.optim.Optimizer, state: State | None, meta: dict[str, float]
) -> None:
    """Write weights, moments, carried state and random state; the file is replaced as a whole."""
    from safetensors.torch import save as to_bytes

    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    for index, moments in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{index}.{name}": value for name, value in moments.items()}
    tensors |= (state or State()).prefixed("state")
    tensors["random"] = torch.get_rng_state()
    plain = {name: value.detach().contiguous().clone() for name, value in tensors.items()}
    write_atomically(path, to_bytes(plain, {"meta": json.dumps(meta)}))


def load(path: Path, model: LanguageModel, optimiser: torch.optim.Optimizer) -> tuple[State | None, dict[str, float]]:
    """Put a checkpoint back; gives the carried state and what `save` was told. Raises InputError if it does not fit."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            meta = json.loads((file.metadata() or {})["meta"])
        saved = State(tensors)
        model.load_state_dict(saved.under("model"))
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in saved.under("optimiser").items():
            index, kind = name.split(".")
            moments.setdefault(int(index), {})[kind] = value
        groups = optimiser.state_dict()["param_groups"]
        optimiser.load_state_dict({"state": moments, "param_groups": groups})
        torch.set_rng_state(saved["random"])
    except (SafetensorError, OSError, KeyError, ValueError, RuntimeError) as error:
        line = str(error).splitlines()[0]
        raise InputError(f"checkpoint {str(path)!r} is damaged or of another run: {line}") from error
    return saved.under("state") or None, meta


def read_config(path: Path) -> TrainConfig:
    """The training config that a run folder's config.json holds. Raises InputError if it holds none."""
    try:
        return TrainConfig(**json.loads(path.read_text())["training"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{str(path)!r} does not describe a training run: {error}") from error
