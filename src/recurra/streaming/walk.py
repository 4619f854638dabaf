"""A model that is asked for one token after another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from recurra import check
from recurra.engines.chain import Walk
from recurra.engines.modules import INTERNAL
from recurra.engines.single import Plan, plan_of, undisturbed
from recurra.models.language_model import LanguageModel
from recurra.state import State


class TokenWalk:
    """Tokens of one sequence taken as `LanguageModel.advance` takes them, each in one launch, with the state in memory
    of its own. Before each it is checked that the model still is what it was.
    """

    def __init__(self, model: LanguageModel, plan: Plan, walk: Walk):
        self._model, self._plan, self._walk = model, plan, walk

    @classmethod
    def start(cls, model: LanguageModel, state: Mapping[str, Tensor]) -> TokenWalk | None:
        """From `state` on; None where the model has to be called itself.

        Raises InputError if the state does not fit.
        """
        if not undisturbed() or not _called_plainly(model):
            return None
        carried = check.parts("this model", state, model._names())
        x = model._enter(model.embedding.weight[0])[None, None]
        plan = plan_of(model, model._parts, x, [*(carried or []), {}])
        if plan is None or plan.chain is None or plan.snapshot.hooked:
            return None
        return cls(model, plan, Walk(plan.chain, [*(carried or []), {}]))

    def step(self, tokens: Sequence[int]) -> Tensor | None:
        """The scores after some tokens of the vocabulary, [vocabulary]; None, and none is taken, if the model is not
        what it was, or the walk is over."""
        model, chain = self._model, self._plan.chain
        if chain is None or not undisturbed() or not self._plan.holds():
            return None
        weight = model.embedding.weight
        y = self._walk.steps(chain.input(model._enter(weight[token])) for token in tokens)
        return None if y is None else y.to(weight.dtype)

    def end(self) -> State:
        """The state after the last token. The walk is then over, and the state the caller's."""
        return self._model._joined(self._walk.end())


def _called_plainly(model: LanguageModel) -> bool:
    """Whether calling the model runs its own `forward` and nothing else."""
    own = (value for name, value in vars(model).items() if name not in INTERNAL)
    return type(model).forward is LanguageModel.forward and not any(map(callable, own))
