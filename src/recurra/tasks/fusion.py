"""Language models that have a say in a beam: what a target is like, whatever its source."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from recurra import options
from recurra.data.reading import Batch, Padded
from recurra.data.sequences import Sequences
from recurra.errors import InputError
from recurra.models.language_model import LanguageModel
from recurra.state import State
from recurra.tasks.beam import Step
from recurra.tasks.heads.categorical import Categorical
from recurra.training.fitting import Progress, Schedule, fit

Prior = tuple[LanguageModel, float]
"""A language model and how much its say counts."""


def fused(step: Step, state: State, priors: Sequence[Prior]) -> tuple[Step, State]:
    """A step and its state with which each next token's logarithm has `share` times that of each language model added,
    and both are divided by their sum. The models go on beside, their states under `prior.<number>`.

    Source: "shallow fusion" of Gulcehre et al., 2015, arXiv:1503.03535.
    """

    def both(last: Tensor, state: State, which: Tensor) -> tuple[Tensor, State, Tensor | None]:
        log_p, after, looked = step(last, state.under("own"), which)
        after = after.prefixed("own")
        for n, (model, share) in enumerate(priors):
            raw, new = model(last[:, None], state.under(f"prior.{n}"))
            # It knows one token more, the one before the first, which nobody says.
            log_p = log_p + share * raw[:, 0, : log_p.shape[-1]].log_softmax(-1).to(log_p.dtype)
            after |= new.prefixed(f"prior.{n}")
        return log_p.log_softmax(-1), State(after), looked

    rows, together = len(next(iter(state.values()))), state.prefixed("own")
    for n, (model, _) in enumerate(priors):
        together |= model.initial_state(rows).prefixed(f"prior.{n}")
    return both, State(together)


def checked(priors: Sequence[Prior], tokens: int) -> list[Prior]:
    """Priors of so many tokens. Raises InputError if one is none."""
    for prior in priors:
        if not isinstance(prior, (tuple, list)) or len(prior) != 2 or not isinstance(prior[0], LanguageModel):
            raise InputError(f"fusion holds {options.shown(prior)}; expected (language model, share)")
        options.number("fusion's share", prior[1], 0)
        if (own := prior[0].config["vocabulary"]) != tokens:
            raise InputError(f"fusion holds a language model of {own} tokens; expected {tokens}: make it by `language`")
    return list(priors)


def language(
    texts: Sequences, model: LanguageModel, begin: int, end: int, batch: int, schedule: Schedule, seed: int,
    progress: Progress | None = None,
) -> LanguageModel:  # fmt: skip
    """Teach a language model texts of one category each: from `begin` to `end`."""
    (name,) = texts.fields
    head = Categorical(begin + 1)

    def loss(batch: Batch, _: State | None) -> tuple[Tensor, None]:
        tokens = batch.columns[name]
        due = nn.functional.pad(tokens, (0, 1), value=-1).scatter(1, batch.lengths[:, None], end)
        said = torch.cat([tokens.new_full((len(tokens), 1), begin), tokens.clamp(min=0)], 1)
        return head.loss(model(said)[0], due), None

    fit(model, Padded(texts, batch, seed), loss, schedule, progress)
    return model
