"""A closed loop is what one gets by taking what was said for what came; paths are draws of it."""

import numpy as np
import pytest
import torch

from recurra.data.reading import Batch
from recurra.errors import InputError
from recurra.tasks import origins
from recurra.tasks.feeding import feed
from recurra.tasks.forecaster import Forecaster
from recurra.tasks.passing import state_of
from recurra.testing.tolerances import assert_close

DAYS, AHEAD = 60, 4


def table(first=0, last=DAYS):
    """Two series that depend on the weekday, with a column known ahead, one known to now, one the same at all times."""
    days = np.arange(first, last)
    rows = {"unique_id": [], "ds": [], "y": [], "holiday": [], "rain": [], "town": []}
    for number, town in enumerate(["north", "south"]):
        dice = np.random.default_rng(number)
        rain, noise = dice.normal(size=(2, 2 * DAYS))
        rows["unique_id"] += [town] * len(days)
        rows["ds"] += [np.datetime64("2026-01-01") + int(day) for day in days]
        rows["y"] += list(10 * (number + 1) + 3 * (days % 7 == 6) + noise[days])
        rows["holiday"] += list((days % 7 == 6).astype(float))
        rows["rain"] += list(rain[days])
        rows["town"] += [town] * len(days)
    return {name: np.array(column) for name, column in rows.items()}


def fitted(pattern="gru", **options):
    settings = {"width": 8, "steps": 12, "window": 20, "batch": 2, "known": ["holiday"], "static": ["town"]}
    return Forecaster(pattern, **(settings | {"categories": ["town"]} | options)).fit(table())


def known(first, last):
    found = table(first, last)
    return {name: found[name] for name in ("unique_id", "ds", "holiday")}


def by_hand(forecaster, steps):
    """What is said one step ahead is taken for what came, again and again."""
    said = []
    for day in range(DAYS, DAYS + steps):
        next_ = forecaster.predict(known=known(day, day + 1), horizon=1)
        said.append(next_["y"])
        missing = {"holiday": known(day, day + 1)["holiday"], "rain": np.full(2, np.nan)}
        forecaster.update(next_ | missing | {"town": np.array(["north", "south"])})
    return torch.tensor(np.stack(said, 1).reshape(-1))


@pytest.mark.parametrize("pattern", ["gru", "mamba"])
def test_beyond_the_horizon_it_reads_what_it_has_said(pattern, tmp_path):
    forecaster = fitted(pattern, horizon=1)
    forecaster.save(tmp_path)
    found = forecaster.predict(known=known(DAYS, DAYS + AHEAD), horizon=AHEAD, level=[80])
    assert list(found["unique_id"]) == ["north"] * AHEAD + ["south"] * AHEAD
    assert (found["y-lo-80"] < found["y-hi-80"]).all()
    again = Forecaster.load(tmp_path)
    assert_close(
        "in a file",
        torch.tensor(again.predict(known=known(DAYS, DAYS + AHEAD), horizon=AHEAD)["y"]),
        torch.tensor(found["y"]),
    )
    assert_close("by hand", by_hand(forecaster, AHEAD), torch.tensor(found["y"]), dtype=torch.float32)


def test_a_shorter_horizon_is_the_beginning_of_a_longer_one():
    forecaster = fitted(horizon=3)
    whole = forecaster.predict(known=known(DAYS, DAYS + 5), horizon=5, quantiles=[0.2])
    for steps in (1, 3):
        part = forecaster.predict(known=known(DAYS, DAYS + steps), horizon=steps, quantiles=[0.2])
        for name in ("y", "y-q-0.2"):
            assert (part[name].reshape(2, steps) == whole[name].reshape(2, 5)[:, :steps]).all()


def test_paths_are_draws_of_what_is_said():
    forecaster = fitted(horizon=2)
    how = {"known": known(DAYS, DAYS + 3), "horizon": 3}
    found = forecaster.predict(samples=400, quantiles=[0.1, 0.5, 0.9], seed=3, **how)
    again = forecaster.predict(samples=400, quantiles=[0.1, 0.5, 0.9], seed=3, **how)
    paths = np.stack([found[f"y-sample-{n}"] for n in range(400)])
    assert (paths == np.stack([again[f"y-sample-{n}"] for n in range(400)])).all()
    assert np.isfinite(paths).all()
    for level in (0.1, 0.5, 0.9):  # of the first step, which both say of themselves
        share = (paths[:, [0, 3]] <= found[f"y-q-{level}"][[0, 3]]).mean()
        assert abs(share - level) < 0.06
    assert len(np.unique(paths[:, 2])) == 400


def test_each_series_goes_on_as_if_alone():
    forecaster = fitted(horizon=1)
    together = forecaster.predict(known=known(DAYS, DAYS + AHEAD), horizon=AHEAD)["y"].reshape(2, AHEAD)
    for number, town in enumerate(["north", "south"]):
        own = table()
        alone = {name: column[own["unique_id"] == town] for name, column in own.items()}
        said = forecaster.predict(alone, known=known(DAYS, DAYS + AHEAD), horizon=AHEAD)["y"]
        assert_close(town, torch.tensor(said), torch.tensor(together[number]), dtype=torch.float32)


@pytest.mark.parametrize("how", ["truth", (3, 2), "own"])
def test_where_what_was_expected_came_it_learns_the_same(how):
    """Of a series that is the model's own, the loss does not depend on what it is fed."""
    forecaster = fitted(horizon=1, head="normal", past=[])
    own = forecaster.predict(known=known(DAYS, DAYS + 9), horizon=9)
    began, ahead = table(0, DAYS), table(DAYS, DAYS + 9)
    rows = {name: np.concatenate([began[name], (ahead | {"y": own["y"]})[name]]) for name in began}
    sequences = forecaster._like(rows)
    batches = []
    for number in range(2):  # the last 9 steps of each series, from where the model stands
        flat = sequences.offsets[number + 1] - 9 + torch.arange(9)[None]
        columns = {name: sequences.take(name, flat) for name in sequences.fields}
        batches.append(Batch(columns, flat, torch.tensor([9]), torch.zeros(1, 9, dtype=torch.bool)))
    for number, batch in enumerate(batches):
        state = state_of(forecaster._standing.place.rows([number]))
        losses = [origins.loss(forecaster.model_, sequences, batch, state, feed(way))[0] for way in (how, "truth")]
        assert_close("loss", losses[0], losses[1])


@pytest.mark.parametrize("how", [(5, 3), "own"])
def test_it_trains_on_what_it_says_across_windows_and_series(how):
    found = fitted(horizon=2, feed=how, steps=3, window=13)
    assert np.isfinite(found.predict(known=known(DAYS, DAYS + 2))["y"]).all()


def test_bad_input():
    forecaster = fitted(horizon=1, steps=1)
    for how, message in [
        ({"horizon": 0}, "horizon is 0"),
        ({"horizon": 3, "known": known(DAYS, DAYS + 2)}, "whole horizon"),
        ({"samples": -1, "known": known(DAYS, DAYS + 1)}, "samples is -1"),
    ]:
        with pytest.raises(InputError, match=message):
            forecaster.predict(**how)
    with pytest.raises(InputError, match="feed is 'mine'"):
        fitted(feed="mine")
