"""A model that is asked for one token after another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from recurra import check
from recurra.engines.reading import INTERNAL
from recurra.engines.stepping.chain import Walk
from recurra.engines.stepping.single import StepPlan, step_plan, undisturbed
from recurra.state import State, joined
from recurra.streaming.contract import Streamed


class TokenWalk:
    """Tokens of one sequence taken as the model takes them, each in one launch, with the state in memory
    of its own. Before each it is checked that the model still is what it was.
    """

    def __init__(self, model: Streamed, plan: StepPlan, walk: Walk):
        self._model, self._plan, self._walk, self._names = model, plan, walk, model._names()
        self._dtype = model._like.dtype

    @classmethod
    def start(cls, model: Streamed, state: Mapping[str, Tensor]) -> TokenWalk | None:
        """From `state` on; None where the model has to be called itself.

        Raises InputError if the state does not fit.
        """
        if not undisturbed() or not isinstance(model, nn.Module) or not _called_plainly(model):
            return None
        carried = check.parts("this model", state, model._names())
        if carried is None:
            return None
        x = model._enter(model.embedding.weight[0])[None]
        plan = step_plan(model, model._parts, x, [*carried, {}])
        if plan is None or plan.chain is None or plan.reading.hooked:
            return None
        return cls(model, plan, Walk(plan.chain, [*carried, {}]))

    def step(self, tokens: Sequence[int]) -> Tensor | None:
        """The scores after some tokens of the vocabulary, [vocabulary]; None, and none is taken, if the model is not
        what it was, or the walk is over."""
        model, chain = self._model, self._plan.chain
        if chain is None or not (undisturbed() and _has_own_forward(model) and self._plan.holds()):
            return None
        weight = model.embedding.weight
        y = self._walk.steps(chain.input(model._enter(weight[token])) for token in tokens)
        return None if y is None else y[0].to(self._dtype)

    def end(self) -> State:
        """The state after the last token. The walk is then over, and the state the caller's."""
        return joined(self._names, self._walk.end()[:-1])


def _called_plainly(model: Streamed) -> bool:
    """Whether calling the model runs its own `forward` and nothing else, and its embedding gives rows as they are."""
    rows = model.embedding
    plain = type(rows) is nn.Embedding and rows.max_norm is None
    return plain and _has_own_forward(model) and not (_own_callables(model) or _own_callables(rows))


def _own_callables(module: Any) -> list[str]:
    """Attributes that may stand in place of methods."""
    return [name for name, value in vars(module).items() if name not in INTERNAL and callable(value)]


def _has_own_forward(model: Any) -> bool:
    return type(model).forward is type(model).walked
