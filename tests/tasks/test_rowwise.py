"""Rows taken one by one as kernels: the path is taken, and says what tables are told, whatever is in between."""

import copy

import numpy as np
import pytest
import torch

import recurra
from recurra.testing.tolerances import assert_close


def table(count, start=0):
    t = start + np.arange(count)
    y = 50 + 10 * np.sin(t) + np.random.randn(count)
    y[np.random.rand(count) < 0.2] = np.nan
    y[0] = 50.0
    return {
        "ds": np.datetime64("2024-01-01") + t, "y": y, "open": (t % 7 != 6).astype(float),
        "rain": np.random.rand(count), "kind": np.array(["a", "b", "c"], object)[t % 3],
    }  # fmt: skip


def rows(columns):
    return [{name: column[n] for name, column in columns.items()} for n in range(len(columns["y"]))]


def fitted(pattern, **options):
    settings = {"known": ["open", "kind"], "width": 8, "steps": 3, "window": 16, "horizon": 2}
    return recurra.Forecaster(pattern, **settings | options).fit(table(60))


def told(pairs):
    return [torch.stack([pair[n] for pair in pairs])[:, 0] for n in (0, 1)]


@pytest.mark.parametrize(("pattern", "compiled"), [
    ("gru+mamba", True), ("slstm", True), ("lstm+gated-delta-net", True), ("gru+attention", False),
])  # fmt: skip
@pytest.mark.parametrize("options", [
    {}, {"scale": "fit", "head": "quantile"}, {"scale": "none", "head": "normal", "memory": None, "past": ["rain"]},
])  # fmt: skip
def test_rows_are_told_what_tables_are(pattern, compiled, options):
    forecaster = fitted(pattern, **options)
    stream, news = forecaster.stream(), table(12, 60)
    found = [stream.update(row) for row in rows(news)]
    assert (stream._steps._walk is not None) == compiled
    table_told = forecaster.update(news)
    for name, values in zip(("expected", "surprise"), told(found), strict=True):
        assert_close(name, values, torch.from_numpy(table_told[name]).to(values.dtype))
    for name, value in forecaster._standing.place.items():
        assert_close(name, stream.place[name], value)
    # The state has been asked for, and the stream goes on from it.
    after = table(3, 72)
    again = told([stream.update(row) for row in rows(after)])
    assert_close("surprise", again[1], torch.from_numpy(forecaster.update(after)["surprise"]).to(again[1].dtype))


def test_a_model_that_is_changed_is_the_changed_one_from_the_next_row_on():
    forecaster = fitted("gru")
    other = copy.deepcopy(forecaster)
    streams = [each.stream() for each in (forecaster, other)]
    first, second = rows(table(2, 60))
    for stream in streams:
        stream.update(first)
    for each in (forecaster, other):
        with torch.no_grad():
            each.model_.outlook.direct.bias += 1.0
    other.model_.backbone.norm.weight = torch.nn.Parameter(2 * other.model_.backbone.norm.weight.detach())
    forecaster.model_.backbone.norm.weight.data *= 2
    with torch.inference_mode():
        one, two = (stream.update({**second, "y": 3.0}) for stream in streams)
    assert_close("expected", one[0], two[0])
    assert_close("surprise", one[1], two[1])


@pytest.mark.parametrize("pool", ["mean", "attention", "max", "last"])
def test_cases_row_by_row_are_cases_as_a_whole(pool):
    X = [np.random.randn(3, n) for n in (5, 9, 4, 7)]
    X[1][0, 2] = np.nan
    classifier = recurra.Classifier("gru+lstm", pool=pool, width=8, steps=2).fit(X, list("abab"))
    for case, chances in zip(X, classifier.predict_proba(X), strict=True):
        stream = classifier.stream()
        for row in case.T:
            last = stream.update(row)
        assert stream._steps._walk is not None
        assert np.allclose(last, chances, atol=1e-5)
