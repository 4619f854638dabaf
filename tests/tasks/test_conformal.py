"""Conformal intervals hold what they promise where the head is wrong, are ranks of errors, and come from files."""

import numpy as np
import pytest
import torch

from recurra.errors import InputError
from recurra.tasks.conformal import Conformal
from recurra.tasks.forecaster import Forecaster
from recurra.tasks.heads.head import Around
from recurra.testing.tolerances import assert_close

SETTINGS = {"width": 6, "window": 20, "batch": 4, "scale": "fit", "conformal": True}


def series(count, length):
    """Numbers that are mostly near zero, and seldom far away: no bell."""
    y = np.random.randn(count, length) ** 3
    return {"unique_id": np.repeat([f"s{n}" for n in range(count)], length), "y": y.reshape(-1)}


def test_they_cover_what_they_say_though_nothing_was_learned():
    found = Forecaster("gru", horizon=2, head="normal", steps=1, **SETTINGS).fit(series(24, 500))
    report = found.evaluate(series(24, 500), windows=100, stride=2, level=[50, 90])
    assert abs(report["coverage"]["50"] - 0.5) < 0.06
    assert abs(report["coverage"]["90"] - 0.9) < 0.04


def test_quantiles_are_ranks_of_errors():
    errors = torch.sort(torch.randn(2, 1, 9, dtype=torch.float64)).values
    errors[1, 0, 7:] = torch.nan  # two were missing
    point, scale = torch.randn(3, 2, 1).double(), 1 + torch.rand(3, 1, 1, 1).double()
    found = Conformal(errors).quantiles(point, Around(scale, scale), [0.2, 0.5, 0.8])
    for step, ranks in [(0, [2, 5, 8]), (1, [1, 4, 7])]:  # of 9 and of 7 errors
        for n, rank in enumerate(ranks):
            expected = point[:, step, 0] + scale[:, 0, 0, 0] * errors[step, 0, rank - 1]
            assert_close("quantile", found[:, step, 0, n], expected)
    with pytest.raises(InputError, match="needs 9 errors of each step, and 7 are known"):
        Conformal(errors).quantiles(point, Around(scale, scale), [0.1])


def test_it_learns_from_the_first_part_and_stands_at_the_end(tmp_path):
    data = series(2, 100)
    found = Forecaster("gru", horizon=3, steps=2, **SETTINGS).fit(data)
    plain = Forecaster("gru", horizon=3, steps=2, **(SETTINGS | {"conformal": False}))
    first = {name: column.reshape(2, 100)[:, :80].reshape(-1) for name, column in data.items()}
    assert (plain.fit(first).predict(data)["y"] == found.predict()["y"]).all()
    said = found.predict(level=[80])
    found.save(tmp_path)
    loaded = Forecaster.load(tmp_path)
    assert all((loaded.predict(level=[80])[name] == column).all() for name, column in said.items())
    assert all((found.predict(data, level=[80])[name] == column).all() for name, column in said.items())


BAD = {
    "flag": ({"conformal": 1}, 60, {}, "conformal is 1"),
    "short": ({"horizon": 5}, 20, {}, "a fifth of no series"),
    "extreme": ({}, 60, {"level": [99]}, "needs 199 errors"),
    "far": ({}, 100, {"level": [50], "horizon": 4}, "no further than the 1 steps"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case):
    options, length, asked, message = BAD[case]
    with pytest.raises(InputError, match=message):
        Forecaster("gru", steps=1, **(SETTINGS | options)).fit(series(1, length)).predict(**asked)
