"""Checkpoints: all that a run needs to go on to the same weights, in one safetensors file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from recurra import options, sealed
from recurra.errors import InputError, one_line
from recurra.state import State

META = sealed.OWN + "run"
"""The fact about a file that holds the identity of the run and its `Position`."""

ADAMW = ("step", "exp_avg", "exp_avg_sq")
"""What AdamW keeps of a parameter; groups of parameters of which another is kept say what under `keeps`."""


@dataclass(frozen=True)
class Position:
    """Where in a run a checkpoint was taken."""

    step: int
    """Updates made."""
    seconds: float
    """Training time spent, over all processes."""
    state: State | None
    """Carried from the last window into the next."""


def save(path: Path, run: str, model: nn.Module, optimiser: torch.optim.Optimizer, position: Position) -> None:
    """Write weights, moments, carried state and the random state; the file is replaced as a whole.

    Args:
        run: identity of the run; `load` refuses the checkpoint of another.
    """
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    for index, moments in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{index}.{name}": value for name, value in moments.items()}
    tensors |= (position.state or State()).prefixed("state")
    tensors["random"] = torch.get_rng_state()
    meta = {"run": run, "step": position.step, "seconds": position.seconds}
    sealed.write(path, "checkpoint", tensors, {META: json.dumps(meta)})


def load(path: Path, run: str, model: nn.Module, optimiser: torch.optim.Optimizer) -> Position:
    """Put a checkpoint back, the random state included.

    Raises InputError, with model and optimiser as they were, if the file is damaged or of another run.
    """
    tensors, facts = sealed.read(path, f"checkpoint {str(path)!r} cannot be read")
    saved = State(tensors)
    try:
        meta = json.loads(facts[META])
        whose, step = meta["run"], options.whole("step", meta["step"])
        seconds = options.number("seconds", meta["seconds"], 0)
        held = moments(saved.under("optimiser"))
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise InputError(f"checkpoint {str(path)!r} is none of ours: {one_line(error)}") from error
    if whose != run:
        raise InputError(f"checkpoint {str(path)!r} is of another run; put the right one back, or start anew elsewhere")
    if not _fits(saved, held, model, optimiser):
        raise InputError(f"checkpoint {str(path)!r} was written by another version of recurra; start anew elsewhere")
    try:
        torch.set_rng_state(saved["random"])
    except RuntimeError as error:
        raise InputError(f"checkpoint {str(path)!r} is none of ours: {one_line(error)}") from error
    model.load_state_dict(saved.under("model"))
    optimiser.load_state_dict({"state": held, "param_groups": optimiser.state_dict()["param_groups"]})
    return Position(step, seconds, saved.under("state") or None)


def moments(tensors: Mapping[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    """What an optimiser keeps, by the number of the parameter and the name of the moment."""
    found: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, kind = name.split(".")
        found.setdefault(int(index), {})[kind] = value
    return found


def _fits(
    saved: State, moments: Mapping[int, Mapping[str, Tensor]], model: nn.Module, optimiser: torch.optim.Optimizer
) -> bool:
    """Whether names, shapes and types are those of the model and of what its optimiser and the dice keep."""
    keeping = [(p.shape, group.get("keeps", ADAMW)) for group in optimiser.param_groups for p in group["params"]]
    ours = State(model.state_dict()).prefixed("model") | {"random": torch.get_rng_state()}
    return all(
        name in saved and saved[name].shape == own.shape and saved[name].dtype == own.dtype
        for name, own in ours.items()
    ) and all(
        0 <= index < len(keeping) and name in keeping[index][1] and value.shape in ((), keeping[index][0])
        for index, kept in moments.items()
        for name, value in kept.items()
    )
