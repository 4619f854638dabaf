"""What one model has learned as the beginning of another."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from recurra import check, options
from recurra.data.sequences import Field
from recurra.errors import InputError
from recurra.state import State
from recurra.tasks.model import Model

CATEGORIES = "of_categories"
"""What the embeddings of categories are called in an inlet."""
SIDES = ("encoder.", "decoder.", "to_gist.", "to_score.", "to_output.")
"""The parts of a translator whose sizes do not tell of its tokens."""


@torch.no_grad()
def take_over(model: Model, source: Model) -> list[str]:
    """Begin with the inlet and the backbone of another model: what has the same name and shape is taken as it is; of
    categories, whose columns are known by their names, the embedding of each name that both know.

    Args:
        model: is changed.
        source: such as the `model_` of another estimator, of any task.

    Returns:
        the names of the parameters that were taken.

    Raises:
        InputError: nothing fits.
    """
    fitting = _fitting(model, source, ("inlet.", "backbone."))
    taken = [name for name, _ in model.named_parameters() if name in fitting]
    mine, others = model.inlet.encoding, source.inlet.encoding
    known = {field.name: n for n, field in enumerate(others.categories)}
    for n, field in enumerate(mine.categories):
        if field.name in known and mine.width == others.width:
            place = known[field.name]
            _take_names(mine.of_categories[n], field, others.of_categories[place], others.categories[place], 1)
            taken.append(f"inlet.encoding.{CATEGORIES}.{n}.weight")
    if not taken:
        raise InputError("source has no inlet or backbone of these names and shapes; expected one of the same width")
    for own, other in fitting.values():
        own.copy_(other)
    return taken


@torch.no_grad()
def take_over_sides(model: nn.Module, source: nn.Module, fields: Sequence[Field], others: Sequence[Field]) -> None:
    """Begin with another translator: what has the same name and shape is taken as it is, of tokens the embedding of
    each that both know.

    Args:
        model: a `Translation` or a `Transcription`; is changed.
        source: another one.
        fields, others: the tokens of both sides, of `model` and of `source`.

    Raises:
        InputError: nothing fits.
    """
    fitting = _fitting(model, source, SIDES)
    if not fitting:
        raise InputError("start has no encoder or decoder of these names and shapes; expected one of the same width")
    for own, other in fitting.values():
        own.copy_(other)
    for name, field, known in zip(("read", "said"), fields, others, strict=True):
        mine, theirs = getattr(model, name, None), getattr(source, name, None)
        if mine is not None and theirs is not None and mine.embedding_dim == theirs.embedding_dim:
            _take_names(mine, field, theirs, known, 0)


def _fitting(model: nn.Module, source: nn.Module, parts: tuple[str, ...]) -> dict[str, tuple[Tensor, Tensor]]:
    """Numbers of both models, in such parts, that have one name and shape, but for categories, which have names."""
    theirs = source.state_dict()
    return {
        name: (own, theirs[name])
        for name, own in model.state_dict().items()
        if name.startswith(parts) and CATEGORIES not in name
        if name in theirs and own.shape == theirs[name].shape
    }


def _take_names(mine: nn.Module, field: Field, other: nn.Module, others: Field, before: int) -> None:
    """Rows of the names that both fields have, and those `before` and behind names: of what is missing or unknown."""
    assert isinstance(mine, nn.Embedding)
    assert isinstance(other, nn.Embedding)
    assert field.vocabulary is not None
    assert others.vocabulary is not None
    rows = others.vocabulary.encode(field.vocabulary.names)
    both = rows < others.vocabulary.unknown
    end, their_end = before + field.vocabulary.unknown, before + others.vocabulary.unknown
    mine.weight[before:end][both] = other.weight[before:their_end][rows[both]]
    mine.weight[:before] = other.weight[:before]
    mine.weight[end:] = other.weight[their_end:]


class Unfreezing:
    """Parts that learn one after the other, the last first: given to `fit` as its `progress`.

    All but the last part stand still at first; every `every` updates the next before them begins to learn as well.

    Source: Universal Language Model Fine-tuning for Text Classification, Howard, Ruder, 2018, arXiv:1801.06146.

    Args:
        parts: from the first to the last, such as `[model.inlet, *model.backbone.blocks, model.outlook]`.
    """

    def __init__(self, parts: Sequence[nn.Module], every: int):
        self.parts, self.every = list(parts), options.count("every", every)
        self({"step": 0})

    def __call__(self, metrics: dict[str, float]) -> None:
        """What learns after so many updates."""
        awake = 1 + int(metrics["step"]) // self.every
        for back, part in enumerate(reversed(self.parts)):
            part.requires_grad_(back < awake)


class Ensemble(nn.Module):
    """Models of one kind that vote: `raw, state = ensemble(x, state, ...)`, raw being the logarithm of the mean of what
    each holds for likely, so that its softmax is that mean.

    Source: averaged as in Exploring the Limits of Language Modeling, Jozefowicz et al., 2016, arXiv:1602.02410.

    Args:
        models: called as a language model or a `Chain` is, with scores [..., classes] of the same classes.
    """

    def __init__(self, models: Sequence[nn.Module]):
        super().__init__()
        if not models:
            raise InputError("models is empty; expected one at least")
        self.models = nn.ModuleList(models)

    def initial_state(self, batch: int) -> State:
        """The state before the first step: of each model under its number."""
        state = State()
        for n, model in enumerate(self.models):
            state |= State(model.initial_state(batch)).prefixed(str(n))  # type: ignore[operator]
        return state

    def forward(self, x: Any, state: Mapping[str, Tensor] | None = None, **options: Any) -> tuple[Tensor, State]:
        """Logarithms of the mean chances, [..., classes], and the state; options are those of the models."""
        parts = check.parts("this ensemble", state, [str(n) for n in range(len(self.models))])
        votes, after = [], State()
        for n, model in enumerate(self.models):
            raw, new = model(x, None if parts is None else parts[n], **options)
            votes.append(raw.log_softmax(-1))
            after |= State(new).prefixed(str(n))
        return torch.stack(votes).logsumexp(0) - math.log(len(votes)), after
