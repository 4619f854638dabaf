"""Heads of numbers by name."""

from __future__ import annotations

from recurra import options
from recurra.errors import InputError
from recurra.tasks.heads.fourier import Fourier
from recurra.tasks.heads.head import Head
from recurra.tasks.heads.negative_binomial import NegativeBinomial
from recurra.tasks.heads.normal import Normal
from recurra.tasks.heads.quantile import Quantile
from recurra.tasks.heads.student_t import StudentT

NUMBER_HEADS: dict[str, type[Head]] = {
    "student-t": StudentT,
    "normal": Normal,
    "negative-binomial": NegativeBinomial,
    "quantile": Quantile,
    "fourier": Fourier,
}


def number_head(head: object) -> Head:
    """A head by its name, or as it is. Raises InputError if it is no head of numbers."""
    if isinstance(head, Head) and head.kind == "number":
        return head
    if not isinstance(head, str):
        raise InputError(
            f"head is {options.shown(head)}; expected a head of numbers, or one of {', '.join(NUMBER_HEADS)}"
        )
    return NUMBER_HEADS[options.choice("head", head, tuple(NUMBER_HEADS))]()
