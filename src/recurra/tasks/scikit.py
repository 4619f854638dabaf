"""What scikit-learn asks of the estimators that it copies, validates and searches, where it is in use."""

from __future__ import annotations

import sys
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recurra.errors import InputError
from recurra.options import shown


class NotNumbers(InputError, TypeError):
    """Values of another type than numbers."""


def not_fitted(message: str) -> InputError:
    """An InputError that is scikit-learn's own error as well, if it is there."""
    theirs = getattr(sys.modules.get("sklearn.exceptions"), "NotFittedError", None)
    return InputError(message) if theirs is None else type("NotFitted", (InputError, theirs), {})(message)


def table(X: Any, features: int | None = None) -> Any:
    """X as it was given, but what can be an array as one: a table of two axes, looked at, has so many `features`.

    Raises InputError if it is sparse, complex, without columns, of one axis, or has others than it was fitted on.
    """
    if hasattr(X, "tocsr"):
        raise InputError("X is sparse; sparse input is not supported: expected an array, such as X.toarray()")
    if isinstance(X, (list, tuple)) or not hasattr(X, "__array__"):
        return X
    found = np.asarray(X)
    if found.dtype.kind == "c":
        raise InputError(f"X is {found.dtype}; expected real numbers. Complex data not supported")
    if found.ndim == 1 and found.dtype != object:
        raise InputError(f"X is {list(found.shape)}; expected [cases, T]. Reshape your data, X[None] if it is one case")
    if found.ndim != 2:
        return X
    if found.dtype.kind not in "biuf":
        try:
            found = found.astype(np.float64)
        except (TypeError, ValueError) as error:
            raise NotNumbers(f"X holds what is no number: {error}; expected numbers, or NaN") from error
    if not found.size:
        kind, count = ("feature", found.shape[1]) if not found.shape[1] else ("sample", 0)
        raise InputError(f"X is empty: {count} {kind}(s) (shape={found.shape}) while a minimum of 1 is required.")
    if features not in (None, found.shape[1]):
        raise InputError(
            f"X has {found.shape[1]} features, but this is expecting {features} features as input; series of other "
            "lengths come as a list"
        )
    return found


def columns(X: Any) -> int | None:
    """How many columns a table has: of two axes, or a list of lists of one length; None of what is no table."""
    if getattr(X, "ndim", 0) == 2:
        return int(X.shape[1])
    if not isinstance(X, list) or not X or not all(isinstance(row, list) for row in X):
        return None
    return len(X[0]) if {len(row) for row in X} == {len(X[0])} and np.ndim(X[0]) == 1 else None


def answers(y: Any, who: str) -> Any:
    """Answers, one for each case; a column of them is laid flat, with a warning.

    Raises InputError if there are none.
    """
    if y is None:
        raise InputError(f"y is missing: this {who} requires y to be passed, but the target y is None")
    if isinstance(y, (list, tuple)) or not hasattr(y, "__array__"):
        return y
    found = np.asarray(y)
    if found.ndim == 2 and found.shape[1] == 1:
        theirs = getattr(sys.modules.get("sklearn.exceptions"), "DataConversionWarning", UserWarning)
        told = "A column-vector y was passed when a 1d array was expected. Please change the shape of y to (n_samples,)"
        warnings.warn(told, theirs, stacklevel=4)
        return found[:, 0]
    if found.dtype.kind == "c":
        raise InputError(f"y is {found.dtype}, which holds what is no number. Complex data not supported")
    return found


def expect_classes(labels: NDArray[Any]) -> None:
    """Raises InputError if labels are numbers of a continuous range."""
    if labels.dtype.kind == "f" and (labels != np.floor(labels)).any():
        first = labels[labels != np.floor(labels)][0]
        raise InputError(
            f"y holds {shown(float(first))}. Unknown label type: continuous; expected classes: texts, whole numbers or "
            "flags. For numbers there is a Regressor"
        )


def expect_finite(y: NDArray[Any], expected: str) -> None:
    """Raises InputError, naming the place, if one of the answers [cases] is not finite."""
    if (wrong := np.flatnonzero(~np.isfinite(y))).size:
        raise InputError(f"y[{wrong[0]}] is {float(y[wrong[0]])}; expected {expected}")
