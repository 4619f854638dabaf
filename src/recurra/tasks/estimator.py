"""What every estimator is: settings in the constructor, a model after `fit`, a folder after `save`."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from recurra import options, sealed
from recurra.data.sequences import Field, Sequences, digest
from recurra.errors import InputError, one_line
from recurra.files import read_json, write_atomically
from recurra.models.backbone import Backbone
from recurra.models.files import OWN
from recurra.models.outline import misfit
from recurra.models.pattern import kinds
from recurra.registry import Unregistered, from_a_file, origins
from recurra.tasks.inlets.own import expect_part, name_of
from recurra.tasks.model import Model
from recurra.tasks.transfer import take_over
from recurra.training.fitting import Schedule
from recurra.training.keeping import Kept

WEIGHTS, CONFIG = "model.safetensors", "config.json"


class Estimator:
    """Settings that are only stored, until `fit` looks at them; what is learned ends in an underscore.

    `get_params`, `set_params` and `clone` are those that scikit-learn knows.
    """

    task: ClassVar[str]
    """Its name in files."""
    model_: Model
    fields_: list[Field]

    @classmethod
    def _names(cls) -> list[str]:
        """Of the settings."""
        return [name for name in inspect.signature(cls.__init__).parameters if name != "self"]

    def get_params(self, deep: bool = True) -> dict[str, Any]:  # noqa: ARG002
        """The settings by name."""
        return {name: getattr(self, name) for name in self._names()}

    def set_params(self, **params: Any) -> Self:
        """Change settings. Raises InputError, and changes none, if one is not known."""
        known = self._names()
        if strange := [name for name in params if name not in known]:
            raise InputError(f"{type(self).__name__} has no setting {strange[0]!r}; it has {', '.join(known)}")
        for name, value in params.items():
            setattr(self, name, value)
        return self

    def clone(self) -> Self:
        """Another one with the same settings, that has learned nothing."""
        return type(self)(**self.get_params())

    def __repr__(self) -> str:
        defaults = {name: p.default for name, p in inspect.signature(type(self)).parameters.items()}
        changed = {name: value for name, value in self.get_params().items() if value is not defaults[name]}
        told = (f"{n}={v!r}" for n, v in changed.items() if type(v) is not type(defaults[n]) or v != defaults[n])
        return f"{type(self).__name__}({', '.join(told)})"

    def _expect_fitted(self) -> None:
        if not hasattr(self, "model_"):
            raise InputError(f"this {type(self).__name__} has not been fitted; call fit first, or load one")

    def _kept(self, folder: str | Path | None, resume: bool, *data: Sequences | Tensor) -> Kept | None:
        """Where a fit on such data keeps its checkpoints; None if nowhere."""
        if folder is not None:
            part = self.get_params().get("inlet")
            data = (*data, *(part.state_dict().values() if isinstance(part, torch.nn.Module) else ()))
            digests = [each.digest() if isinstance(each, Sequences) else digest([each]) for each in data]
            return Kept(folder, {"task": self.task, "data": digests, **self._plain_settings()}, resume)
        if options.flag("resume", resume):
            raise InputError("resume is True without a folder; expected that of the fit that was not finished")
        return None

    def _begin(self, model: Any, fields: Sequence[Field], start: Estimator | None) -> list[Tensor]:
        """Let a fresh model, of data of such fields, begin with what another estimator has learned; gives the numbers
        of that one. Raises InputError if it has learned nothing, or nothing of it fits."""
        if start is None:
            return []
        if not isinstance(start, Estimator):
            raise InputError(f"start is {options.shown(start)}; expected an estimator that was fitted")
        start._expect_fitted()
        self._take_over(model, fields, start)
        return list(start.model_.state_dict().values())

    def _take_over(self, model: Any, fields: Sequence[Field], start: Estimator) -> None:  # noqa: ARG002
        if not isinstance(start.model_, Model):
            raise InputError(f"start is a {type(start).__name__}, which only another one can begin with")
        take_over(model, start.model_)

    def _plain_settings(self) -> dict[str, Any]:
        """The settings, if JSON can hold them; of an inlet of one's own its name. Raises InputError if it cannot."""
        own = self.get_params()
        if own.get("inlet") is not None:
            own["inlet"] = name_of(own["inlet"])
        try:
            json.dumps(own)
        except (TypeError, ValueError) as error:
            raise InputError(f"{self!r} cannot be saved: {one_line(error)}; name heads and the like by str") from error
        return own

    def _schedule(self) -> Schedule:
        """The settings of training."""
        own = self.get_params()
        return Schedule(**{name: own[name] for name in ("steps", "seconds", "learning_rate", "weight_decay")})

    def _backbone(self, bidirectional: bool = False) -> Backbone:
        """The blocks that the settings ask for."""
        own = self.get_params()
        settings = {name: own[name] for name in ("mlp", "dropout", "layers")}
        return Backbone(own["width"], own["pattern"], **settings, bidirectional=bidirectional)

    def _build(self, fields: Sequence[Field], about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Model:
        """A fresh model for data of such fields.

        Args:
            about: what else it was decided by, plain data.
            tensors: of a file, where some of it may come from.
        """
        raise NotImplementedError

    def _patterns(self) -> list[str]:
        """The patterns among the settings."""
        own = self.get_params()
        return [own[name] for name in ("pattern", "decoder") if isinstance(own.get(name), str)]

    def _about(self) -> dict[str, Any]:
        """Plain data to keep with a model, for `_build`."""
        return {}

    def _remembered(self) -> dict[str, Tensor]:
        """Tensors besides those of the model that a file has to hold."""
        return {}

    def _remember(self, about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Take back what `_about` and `_remembered` gave."""

    def save(self, folder: str | Path) -> None:
        """Write what was learned into `folder`, which is made if missing; each file appears whole or not at all.

        Raises:
            InputError: nothing was fitted, or a setting is nothing that JSON can hold.
            OSError: the folder cannot be written.
        """
        self._expect_fitted()
        folder = options.path("folder", folder)
        config = {
            "task": self.task,
            "settings": self._plain_settings(),
            "fields": [field.as_dict() for field in self.fields_],
            "about": self._about(),
        }
        if own := origins(name for pattern in self._patterns() for name in kinds(pattern)):
            config[OWN] = own
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {f"model.{name}": value for name, value in self.model_.state_dict().items()}
        sealed.write(folder / WEIGHTS, self.task, tensors | self._remembered(), {"format": "pt"})
        write_atomically(folder / CONFIG, json.dumps(config, indent=2) + "\n")

    @classmethod
    def load(cls, folder: str | Path, inlet: Any = None) -> Self:
        """Read what `save` wrote, on the CPU.

        Args:
            inlet: a part like that of the setting of this name, if there was one: files hold its numbers, and no code.

        Raises InputError, naming the file, if it is missing, damaged or of another task; or if an inlet is missing, or
        there was none.
        """
        folder = options.path("folder", folder)
        path = folder / CONFIG
        try:
            config = read_json(path)
        except (OSError, ValueError) as error:
            raise InputError(f"{path} cannot be read: {one_line(error)}; expected what save wrote") from error
        if config.get("task") != cls.task:
            raise InputError(f"{path} is of the task {config.get('task')!r}; {cls.__name__} reads {cls.task!r}")
        own = _inlet(config, inlet, path)
        tensors, _ = sealed.read(folder / WEIGHTS, f"{folder / WEIGHTS} cannot be read")
        weights = {name.removeprefix("model."): t for name, t in tensors.items() if name.startswith("model.")}
        try:
            with from_a_file(config.get(OWN)):
                found = cls(**config["settings"] | own)
                found.fields_ = [Field.from_dict(field) for field in config["fields"]]
                found._remember(config["about"], tensors)
                model = found._build(found.fields_, config["about"], tensors)
        except Unregistered as error:
            raise InputError(f"{path}: {error}") from error
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path} does not describe a {cls.__name__}: {one_line(error)}") from error
        if reason := misfit(model.state_dict(), weights):
            raise InputError(f"{folder / WEIGHTS} does not fit {CONFIG}: {reason}")
        model.load_state_dict(weights)
        found.model_ = model.eval()
        return found


def _inlet(config: Mapping[str, Any], inlet: Any, path: Path) -> dict[str, Any]:
    """The setting of that name, of a file that may say that there was one."""
    settings = config.get("settings")
    name = settings.get("inlet") if isinstance(settings, dict) else None
    if name is None and inlet is not None:
        raise InputError(f"inlet is {options.shown(inlet)}; {path} was fitted without one: leave it out")
    if name is None:
        return {}
    if inlet is None:
        raise InputError(
            f"{path} was fitted with an inlet of its own, {name}, whose code no file holds: load(folder, inlet=...)"
        )
    expect_part(inlet)
    return {"inlet": inlet}


class Dice:
    """Random numbers from a seed, those of everybody else left alone."""

    def __init__(self, seed: object):
        self._seed = options.whole("seed", seed, high=2**63)

    def __enter__(self) -> None:
        self._fork = torch.random.fork_rng(devices=[])
        self._fork.__enter__()
        torch.manual_seed(self._seed)

    def __exit__(self, *error: Any) -> None:
        self._fork.__exit__(*error)
