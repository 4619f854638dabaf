"""Recurra: a compiler and toolkit for recurrent sequence models. Write one time step, get the whole model."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from recurra.interop.hook import watch

if TYPE_CHECKING:
    from recurra.attention.base import Attention as Attention
    from recurra.contract import Layer as Layer
    from recurra.contract import Paper as Paper
    from recurra.engines.associative import scan as scan
    from recurra.engines.choose import observe as observe
    from recurra.errors import EngineRefused as EngineRefused
    from recurra.errors import InputError as InputError
    from recurra.errors import RecurraError as RecurraError
    from recurra.models.files import load as load
    from recurra.models.language_model import LanguageModel as LanguageModel
    from recurra.models.only_output import OnlyOutput as OnlyOutput
    from recurra.nn.linear import Linear as Linear
    from recurra.problem import DeltaRule as DeltaRule
    from recurra.problem import Lane as Lane
    from recurra.problem import constant as constant
    from recurra.problem import shared as shared
    from recurra.recurrence import Recurrence as Recurrence
    from recurra.registry import about as about
    from recurra.registry import layer as layer
    from recurra.registry import layers as layers
    from recurra.registry import register as register
    from recurra.state import State as State
    from recurra.tasks.classifier import Classifier as Classifier
    from recurra.tasks.detector import Detector as Detector
    from recurra.tasks.forecaster import Forecaster as Forecaster
    from recurra.tasks.recommender import Recommender as Recommender
    from recurra.tasks.regressor import Regressor as Regressor
    from recurra.tasks.tagger import Tagger as Tagger
    from recurra.tasks.translator import Translator as Translator

__version__ = "0.1.0"

_PUBLIC = {
    "Attention": "attention.base",
    "Classifier": "tasks.classifier",
    "DeltaRule": "problem",
    "Detector": "tasks.detector",
    "Forecaster": "tasks.forecaster",
    "Lane": "problem",
    "LanguageModel": "models.language_model",
    "Layer": "contract",
    "Linear": "nn.linear",
    "OnlyOutput": "models.only_output",
    "Paper": "contract",
    "Recommender": "tasks.recommender",
    "Recurrence": "recurrence",
    "Regressor": "tasks.regressor",
    "State": "state",
    "Tagger": "tasks.tagger",
    "Translator": "tasks.translator",
    "about": "registry",
    "constant": "problem",
    "shared": "problem",
    "layer": "registry",
    "layers": "registry",
    "register": "registry",
    "load": "models.files",
    "observe": "engines.choose",
    "scan": "engines.associative",
    "EngineRefused": "errors",
    "InputError": "errors",
    "RecurraError": "errors",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    """Import on first use, so that `recurra --help` does not wait for PyTorch."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'recurra' has no attribute {name!r}")
    return getattr(import_module(f"recurra.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})


watch()
