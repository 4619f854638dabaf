"""Checkpoints: all that a run needs to go on to the same weights, in one safetensors file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from recurra.errors import InputError
from recurra.files import write_atomically
from recurra.models.language_model import LanguageModel
from recurra.state import State
from recurra.training.config import TrainConfig


@dataclass(frozen=True)
class Position:
    """Where in a run a checkpoint was taken."""

    step: int
    """Updates made."""
    seconds: float
    """Training time spent, over all processes."""
    state: State | None
    """Carried from the last window into the next."""


def save(path: Path, run: str, model: LanguageModel, optimiser: torch.optim.Optimizer, position: Position) -> None:
    """Write weights, moments, carried state and the random state; the file is replaced as a whole.

    Args:
        run: identity of the run; `load` refuses the checkpoint of another.
    """
    from safetensors.torch import save as to_bytes

    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    for index, moments in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{index}.{name}": value for name, value in moments.items()}
    tensors |= (position.state or State()).prefixed("state")
    tensors["random"] = torch.get_rng_state()
    plain = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    meta = {"run": run, "step": position.step, "seconds": position.seconds, "digest": _digest(plain)}
    write_atomically(path, to_bytes(plain, {"meta": json.dumps(meta)}))


def load(path: Path, run: str, model: LanguageModel, optimiser: torch.optim.Optimizer) -> Position:
    """Put a checkpoint back, the random state included.

    Raises InputError, with model and optimiser as they were, if the file is damaged or of another run.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            meta = json.loads((file.metadata() or {})["meta"])
        whole, ours = meta["digest"] == _digest(tensors), meta["run"] == run
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
        line = str(error).split("\n")[0]
        raise InputError(f"checkpoint {str(path)!r} is damaged or none of ours: {line}") from error
    if not (whole and ours):
        what = "is of another run" if whole else "is damaged: its content is not what was written"
        raise InputError(f"checkpoint {str(path)!r} {what}; put the right one back, or start anew elsewhere")
    saved = State(tensors)
    model.load_state_dict(saved.under("model"))
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in saved.under("optimiser").items():
        index, kind = name.split(".")
        moments.setdefault(int(index), {})[kind] = value
    optimiser.load_state_dict({"state": moments, "param_groups": optimiser.state_dict()["param_groups"]})
    torch.set_rng_state(saved["random"])
    return Position(int(meta["step"]), float(meta["seconds"]), saved.under("state") or None)


def read_config(path: Path) -> TrainConfig:
    """The training config that a run folder's config.json holds. Raises InputError if it holds none."""
    try:
        return TrainConfig(**json.loads(path.read_text())["training"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{str(path)!r} does not describe a training run: {error}") from error


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """Of names and bytes; a flipped bit on the disk changes it."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        total.update(name.encode())
        total.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()
