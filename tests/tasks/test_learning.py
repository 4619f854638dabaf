"""Updates that learn: what had been expected stays, what comes is expected better, and files bring the learner back."""

import copy

import numpy as np
import pytest
import torch

import recurra
from recurra.errors import InputError, RecurraError


def series(level, start, count, name="a"):
    days = np.datetime64("2024-01-01") + start + np.arange(count)
    return {"unique_id": np.array([name] * count, object), "ds": days,
            "y": level + np.random.randn(count), "open": np.random.rand(count)}  # fmt: skip


def recommender():
    users = np.random.default_rng().integers(0, 4, 60).astype(str)
    items = np.array(list("abcde"), object)[np.arange(60) % 5]
    fitted = recurra.Recommender("gru", width=16, steps=5, batch=2, window=8)
    return fitted.fit({"user_id": users, "item_id": items})


def forecaster(**options):
    settings = {"known": ["open"], "width": 12, "steps": 5, "window": 16, "horizon": 3, "learning_rate": 0.1}
    return recurra.Forecaster("gru", **settings | options).fit(series(0, 0, 80))


@pytest.mark.parametrize("head", ["student-t", "normal", "quantile"])
def test_what_comes_again_and_again_is_expected_better(head):
    """One wave over and over: a model that learns from it says less of a surprise in the end than one that does not."""
    np.random.seed(0)  # what learning brings depends on the draw: this one is held
    learns = forecaster(head=head, learning_rate=0.03)
    rests = copy.deepcopy(learns)
    rows = [series(0, start, 9) for start in range(80, 80 + 9 * 60, 9)]
    for row in rows:
        row["y"] = np.sin(np.arange(9) * 2 * np.pi / 9) + 0.1 * np.random.randn(9)
    told = [[each.update(row, learn=each is learns)["surprise"] for row in rows] for each in (learns, rests)]
    assert np.allclose(told[0][0], told[1][0], equal_nan=True)  # told before it learns
    assert np.median(told[0][30:]) < np.median(told[1][30:])  # one step too sure of itself says little


def test_users_too(tmp_path):
    learns = recommender()
    before = {name: value.clone() for name, value in learns.model_.state_dict().items()}
    learns.update(("new", "a"), learn=True)  # nothing was expected of the first event of somebody new
    learns.update(("new", "b"), learn=True)
    after = learns.model_.state_dict()
    assert any(not torch.equal(after[name], value) for name, value in before.items())
    learns.save(tmp_path)
    again = recurra.Recommender.load(tmp_path)
    for each in (learns, again):
        each.update({"user_id": ["0", "new"], "item_id": ["c", "d"]}, learn=True)
    assert all(torch.equal(a, b) for a, b in zip(learns.model_.parameters(), again.model_.parameters(), strict=True))
    assert learns.predict("new") == again.predict("new")


def test_a_file_goes_on_learning_as_if_there_had_been_none(tmp_path):
    fitted = forecaster()
    fitted.update(series(3, 80, 5), learn=True)
    fitted.save(tmp_path)
    again = recurra.Forecaster.load(tmp_path)
    for each in (fitted, again):
        np.random.seed(0)
        each.update(series(3, 85, 4), learn=True)
        each.update(series(1, 0, 2, name="b"), learn=True)
    own, theirs = fitted.model_.state_dict(), again.model_.state_dict()
    assert all(torch.equal(own[name], theirs[name]) for name in own)


def test_a_loss_that_is_no_number_changes_nothing():
    fitted = forecaster()
    with pytest.raises(InputError, match="learn is 1"):
        fitted.update(series(0, 80, 2), learn=1)
    weights = {name: value.clone() for name, value in fitted.model_.state_dict().items()}
    place = {name: value.clone() for name, value in fitted._standing.place.items()}
    far = series(0, 80, 3)
    far["y"][1] = 1e300
    with pytest.raises((RecurraError, InputError)):
        fitted.update(far, learn=True)
    assert all(torch.equal(value, weights[name]) for name, value in fitted.model_.state_dict().items())
    assert all(torch.equal(value, place[name]) for name, value in fitted._standing.place.items())
    told = fitted.update(series(0, 80, 1), learn=True)
    assert np.isfinite(told["surprise"]).all()
