"""`Sequences` from arrays: whole series, each with a label or without."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from recurra import options
from recurra.data.sequences import Field, Sequences
from recurra.data.tables import Table
from recurra.data.vocabulary import Vocabulary
from recurra.errors import InputError


def from_arrays(
    X: Any, y: Any = None, *, labels: str = "category", like: Iterable[Field] | None = None, name: str = "X"
) -> Sequences:
    """Series with the columns "x", past, [N, channels], and "y", the target, if there is `y`.

    Args:
        X: [cases, channels, T], or [cases, T] of one channel; or a list of arrays [channels, T] or [T], whose lengths
            may differ. NaN is missing.
        y: a label for each case; or for each case one for each time step.
        labels: whether `y` holds names of a "category" or a "number".
        like: the fields of other sequences: the same channels are expected, and no label that they do not know.
        name: of X in messages, such as the file it is from.

    Raises:
        InputError: naming the case: lengths or channels differ where they must not, a case is empty or has an infinite
            number, or a channel is empty in all cases; labels are missing, or other than expected.
    """
    options.choice("labels", labels, ("category", "number"))
    fields = {} if like is None else {field.name: field for field in like}
    cases = [_case(name, number, case) for number, case in enumerate(_cases(name, X))]
    channels = fields["x"].width[0] if fields else len(cases[0])
    for number, case in enumerate(cases):
        if len(case) != channels:
            whose = "as it was fitted on" if fields else "as the first has"
            raise InputError(f"{name}, case {number} has {len(case)} channels; expected {channels}, {whose}")
    flat = torch.from_numpy(np.ascontiguousarray(np.concatenate(cases, 1).T))
    if not fields and (empty := flat.isnan().all(0)).any():
        raise InputError(
            f"{name}, channel {int(empty.nonzero()[0])} is NaN in all cases; expected numbers, or leave it out"
        )
    offsets = torch.tensor([0, *(case.shape[1] for case in cases)]).cumsum(0)
    found = [Field("x", "number", "past", width=(channels,))]
    values = {"x": flat}
    if y is not None:
        field, values["y"] = _labels(y, offsets, labels, fields.get("y"))
        found.append(field)
    return Sequences(found, values, offsets)


def _cases(name: str, X: Any) -> Sequence[Any]:
    if isinstance(X, (list, tuple)):
        cases: Sequence[Any] = X
    else:
        whole = X.numpy(force=True) if isinstance(X, torch.Tensor) else np.asarray(X)
        if whole.dtype != object and whole.ndim not in (2, 3):
            shape = list(whole.shape)
            raise InputError(
                f"{name} is {shape}; expected [cases, channels, T], or [cases, T] of one channel, or a list"
            )
        cases = list(whole)
    if not len(cases):
        raise InputError(f"{name} holds no case; expected at least one")
    return cases


def _case(name: str, number: int, case: Any) -> NDArray[np.float64]:
    """[channels, T], looked at."""
    try:
        found = np.asarray(case.numpy(force=True) if isinstance(case, torch.Tensor) else case, np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name}, case {number} is {options.shown(case)}; expected an array of numbers") from error
    found = found[None] if found.ndim == 1 else found
    if found.ndim != 2 or not found.size:
        raise InputError(
            f"{name}, case {number} is {list(found.shape)}; expected [channels, T] or [T], at least one step"
        )
    if np.isinf(found).any():
        channel, step = np.argwhere(np.isinf(found))[0]
        raise InputError(f"{name}, case {number}, channel {channel}, step {step} is infinite; expected numbers, or NaN")
    return found


def _labels(y: Any, offsets: torch.Tensor, kind: str, field: Field | None) -> tuple[Field, torch.Tensor]:
    """The field of the labels and their values, [cases] or [N]."""
    plain = list(y)
    count, whole = len(offsets) - 1, True
    if len(plain) != count:
        raise InputError(f"y has {len(plain)} labels; expected {count}, one for each case")
    if plain and isinstance(plain[0], (list, tuple, np.ndarray, torch.Tensor)) and np.ndim(plain[0]):
        lengths = offsets.diff().tolist()
        for number, (labels, length) in enumerate(zip(plain, lengths, strict=True)):
            if len(labels) != length:
                raise InputError(
                    f"y, case {number} has {len(labels)} labels; expected {length}, one for each time step"
                )
        plain, whole = [label for labels in plain for label in labels], False
    table = Table({"y": np.array([getattr(label, "item", lambda label=label: label)() for label in plain], object)})
    if kind == "number":
        return field or Field("y", "number", "target", whole), torch.from_numpy(table.numbers("y"))
    names = table.names("y")
    field = field or Field("y", "category", "target", whole, vocabulary=Vocabulary.of(names))
    assert field.vocabulary is not None
    codes = field.vocabulary.encode(names)
    if (codes == field.vocabulary.unknown).any():
        case = int((codes == field.vocabulary.unknown).nonzero()[0])
        known = ", ".join(field.vocabulary.names[:20])
        raise InputError(f"y[{case}] is {names[case]!r}, which was never seen while fitting; expected one of {known}")
    return field, codes
