"""The forecaster: updates are reading the whole, nothing leaks, one pass is refeeding, files bring it back."""

import copy
import math

import numpy as np
import pytest
import torch

from recurra.errors import InputError, RecurraError
from recurra.tasks import horizon
from recurra.tasks.forecaster import Forecaster
from recurra.tasks.inlet import Scale
from recurra.tasks.model import Read
from recurra.tasks.walk import forecasts, origins
from recurra.testing.tolerances import assert_close

H = 4


def table(series=("a", "b"), lengths=(60, 45), start="2024-01-01", gaps=True):
    """Days of some series with a week in them, a covariate known ahead, and holes."""
    ids, days, y, promo, rain, shop = [], [], [], [], [], []
    for name, length in zip(series, lengths, strict=True):
        t = np.arange(length)
        ids += [name] * length
        days += list(np.datetime64(start) + t)
        known = np.random.rand(length) < 0.3
        y += list(100 + 10 * (t % 7 == 5) + 30 * known + np.random.randn(length))
        promo, rain = [*promo, *known.astype(float)], [*rain, *np.random.rand(length)]
        shop += ["small" if name == "a" else "large"] * length
    y = np.array(y)
    if gaps:
        y[np.random.rand(len(y)) < 0.05] = np.nan
        y[0] = 100.0
    return {"unique_id": np.array(ids, object), "ds": np.array(days), "y": y, "promo": np.array(promo),
            "rain": np.array(rain), "shop": np.array(shop, object)}  # fmt: skip


def rows(given, mask):
    return {name: value[mask] for name, value in given.items()}


def split(given, steps=H):
    """All but the last rows of each series, and those."""
    last = np.zeros(len(given["y"]), bool)
    for name in dict.fromkeys(given["unique_id"]):
        last[np.flatnonzero(given["unique_id"] == name)[-steps:]] = True
    return rows(given, ~last), rows(given, last)


def small(**options):
    settings = {"pattern": "gru", "horizon": H, "known": ["promo"], "static": ["shop"], "width": 12, "steps": 4,
                "window": 16, "batch": 3}  # fmt: skip
    return Forecaster(**settings | options)


@pytest.fixture(scope="module")
def fitted():
    np.random.seed()
    data = table()
    past, future = split(data)
    return small().fit(past), past, future, data


def test_answers(fitted):
    forecaster, _, future, _ = fitted
    known = {name: future[name] for name in ("unique_id", "ds", "promo")}
    found = forecaster.predict(known=known, level=[80], quantiles=[0.5], samples=3)
    assert (found["unique_id"] == future["unique_id"]).all()
    assert (found["ds"] == future["ds"].astype("datetime64[us]")).all()
    assert (found["y-lo-80"] < found["y-q-0.5"]).all()
    assert (found["y-q-0.5"] < found["y-hi-80"]).all()
    assert np.isfinite(found["y-sample-2"]).all()
    again = forecaster.predict(known=known, samples=3)
    assert (again["y-sample-2"] == found["y-sample-2"]).all()


@pytest.mark.parametrize("pattern", ["gru", "mamba+attention", "slstm"])
def test_updates_are_reading_the_whole(pattern):
    data = table()
    past, future = split(data)
    forecaster = small(pattern=pattern, steps=1).fit(past)
    later, ahead = split(future, 2)[0], {"ds": np.array([np.datetime64("2024-03-01")] * 0)}
    told = [forecaster.update(rows(later, later["unique_id"] == name)) for name in ("b", "a")]
    everything = {n: np.concatenate([past[n], later[n]]) for n in past}
    known = table(("a", "b"), (H, H))
    known["ds"] = np.concatenate([later["ds"][later["unique_id"] == n][-1] + 1 + np.arange(H) for n in ("a", "b")])
    ahead = {name: known[name] for name in ("unique_id", "ds", "promo")}
    whole = forecaster.predict(everything, known=ahead)
    stepped = forecaster.predict(known=ahead)
    assert_close("forecast", torch.tensor(stepped["y"]).float(), torch.tensor(whole["y"]).float())
    assert all(np.isfinite(t["expected"]).all() for t in told)
    assert [np.isnan(t["surprise"]).sum() for t in told] == [np.isnan(t["y"]).sum() for t in told]


def test_expected_is_the_forecast_made_one_step_before(fitted):
    forecaster, past, future, _ = fitted
    other = forecaster._another()._stand(forecaster._like(past))
    first = future["ds"] == future["ds"][0]
    for name in ("a", "b"):
        mine = future["unique_id"] == name
        known = {n: future[n][mine] for n in ("unique_id", "ds", "promo")}
        forecast = other.predict(rows(past, past["unique_id"] == name), known=known)["y"][0]
        row = rows(future, mine & (future["ds"] == known["ds"][0]))
        assert math.isclose(other.update(row)["expected"][0], forecast, rel_tol=1e-5)
    assert first.any()


def test_rows_alone_are_rows_of_tables(fitted):
    forecaster, past, future, _ = fitted
    other = forecaster._another()._stand(forecaster._like(past))
    told, found = other.update(future), {"expected": [], "surprise": []}
    for name in ("a", "b"):
        stream = forecaster._another()._stand(forecaster._like(past)).stream(name)
        for n in np.flatnonzero(future["unique_id"] == name):
            row = {column: future[column][n] for column in future if column != "unique_id"}
            for bad in ({**row, "y": "much"}, {**row, "ds": "1999-01-01"}, {"y": 1.0}):
                with pytest.raises(InputError, match="row"):
                    stream.update(bad)
            expected, surprise = stream.update(row)
            found["expected"].append(float(expected))
            found["surprise"].append(float(surprise))
    for what in found:
        assert_close(what, torch.tensor(found[what]), torch.tensor(told[what]))
    fresh = forecaster.stream("new")
    first = {"ds": "2026-01-01", "y": 3.0, "promo": 0, "rain": None, "shop": "unheard of"}
    assert fresh.update(first)[0].isnan().all()
    assert fresh.update({**first, "ds": "2026-01-02"})[0].isfinite().all()
    with pytest.raises(InputError, match="2 series"):
        forecaster.stream()


def test_a_new_series_begins_by_itself(fitted):
    forecaster, past, future, _ = fitted
    other = forecaster._another()._stand(forecaster._like(past))
    new = table(("c",), (9,))
    told = other.update(new)
    assert np.isnan(told["expected"][0])
    assert np.isfinite(told["expected"][1:]).all()
    ends = new["ds"][-1] + 1 + np.arange(H)
    known = {"unique_id": np.array(["c"] * H, object), "ds": ends, "promo": np.zeros(H)}
    alone = forecaster.predict(new, known=known)["y"]
    three = {n: np.concatenate([future[n], known[n]]) for n in known}
    assert_close("c", torch.tensor(other.predict(known=three)["y"][2 * H :]).float(), torch.tensor(alone).float())


def test_one_pass_is_refeeding_every_origin(fitted):
    """No forecast depends on anything that came after it: scale, calendar and what is known ahead included."""
    forecaster, _, _, data = fitted
    sequences, model = forecaster._like(data), forecaster.model_
    at = origins(sequences, H, 3, 5).reshape(-1)
    raw, read = forecasts(model, sequences, at)
    around = read.around(1)
    point = model.head.predict(raw, around)[:, 0, :, 0]
    for n, row in enumerate(at.tolist()):
        which = int(sequences.sequence_of[row])
        begin = int(sequences.offsets[which])
        mine = np.flatnonzero(data["unique_id"] == sequences.ids[which])
        past, future = (
            rows(data, mine[s]) for s in (slice(0, row - begin + 1), slice(row - begin + 1, row - begin + 1 + H))
        )
        known = {name: future[name] for name in ("unique_id", "ds", "promo")}
        fed = forecaster.predict(past, known=known)["y"]
        assert_close(f"origin {n}", point[n], torch.tensor(fed).float())


def test_what_is_known_of_a_row_is_the_same_for_all_that_look_ahead_to_it(fitted):
    """In value and gradient: numbers, days, and behind the end of a series nothing."""
    forecaster, _, _, data = fitted
    sequences, model = forecaster._like(data), copy.deepcopy(forecaster.model_)
    rows = torch.tensor([[*range(50, 60), -1], [*range(90, 101)]])
    read = Read(torch.randn(2, 11, 12), Scale(*torch.rand(2, 2, 11, 2)))
    steps = {n: sequences.ahead(n, rows, H) for n in horizon.reads_ahead(model)}
    found = [horizon.raw_after(model, read, sequences, rows), horizon.raw(model, read, steps)]
    assert_close("values", *found)
    weights = list(model.outlook.parameters())
    slopes = [torch.autograd.grad(raw.square().sum(), weights) for raw in found]
    for n, pair in enumerate(zip(*slopes, strict=True)):
        assert_close(f"gradient {n}", *pair)


def test_evaluation_beside_naive(fitted):
    forecaster, _, _, data = fitted
    report = forecaster.evaluate(data, windows=3, season=7)
    assert set(report["floors"]) == {"naive", "seasonal naive"}
    assert len(report["by_horizon"]) == H
    assert report["origins"] == 6
    assert "MASE" in str(report)
    assert 0 <= report["coverage"]["80"] <= report["coverage"]["95"] <= 1
    alone = [forecaster.evaluate(rows(data, data["unique_id"] == n), windows=3, season=7)["mase"] for n in "ab"]
    assert_close("each series counts alike", torch.tensor(report["mase"]), torch.tensor(alone).mean())


def test_files_bring_it_back(fitted, tmp_path):
    forecaster, _, future, _ = fitted
    forecaster.save(tmp_path / "f")
    loaded = Forecaster.load(tmp_path / "f")
    known = {name: future[name] for name in ("unique_id", "ds", "promo")}
    assert (
        loaded.predict(known=known, level=[90])["y-lo-90"] == forecaster.predict(known=known, level=[90])["y-lo-90"]
    ).all()
    own = {name: list(v) if isinstance(v, tuple) else v for name, v in forecaster.get_params().items()}
    assert loaded.get_params() == own
    one, other = loaded.update(future), forecaster._another()._stand(forecaster._like(fitted[1])).update(future)
    assert_close("surprise", torch.tensor(one["surprise"]), torch.tensor(other["surprise"]))


def test_settings_are_only_stored():
    forecaster = Forecaster("mamba*2", horizon=0, steps=-1)
    assert forecaster.get_params()["horizon"] == 0
    assert "mamba*2" in repr(forecaster)
    assert repr(forecaster.clone()) == repr(forecaster)
    assert forecaster.set_params(horizon=2).horizon == 2
    with pytest.raises(InputError, match="no setting 'horizons'"):
        forecaster.set_params(horizon=3, horizons=3)
    assert forecaster.horizon == 2


def test_the_same_seed_gives_the_same_weights_and_leaves_the_dice_of_others(fitted):
    past = fitted[1]
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    one, other = small().fit(past), small().fit(past)
    assert torch.equal(torch.rand(2), expected)
    for a, b in zip(one.model_.parameters(), other.model_.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("head", ["normal", "quantile", "negative-binomial"])
def test_heads(head):
    data = table(gaps=False)
    data["y"] = np.round(data["y"])
    past, future = split(data)
    known = {name: future[name] for name in ("unique_id", "ds", "promo")}
    found = small(head=head, steps=2).fit(past).predict(known=known, level=[80])
    assert (found["y-lo-80"] <= found["y-hi-80"]).all()


def test_two_targets_without_times_or_names():
    y = np.random.randn(50)
    data = {"y": y, "z": 3 * y}
    forecaster = Forecaster("min-gru", target=["y", "z"], horizon=2, width=8, steps=2).fit(data)
    found = forecaster.predict(level=[50])
    assert list(found) == ["step", "y", "y-lo-50", "y-hi-50", "z", "z-lo-50", "z-hi-50"]
    assert found["step"].tolist() == [50, 51]
    told = forecaster.update({"y": [0.5], "z": [1.5]})
    assert {"expected-y", "surprise-z"} <= set(told)
    assert forecaster.predict()["step"].tolist() == [51, 52]


class Frame(dict):
    """What looks like a data frame of another library."""

    __module__ = "polars.dataframe.frame"


def test_answers_are_of_the_library_of_what_was_given():
    data = table(gaps=False)
    forecaster = small(known=[], steps=1).fit(Frame(data))
    assert type(forecaster.predict()) is Frame
    assert type(forecaster.predict(data)) is dict
    assert type(forecaster.predict(Frame(data))) is Frame


def changed(data, **columns):
    return {**data, **columns}


BAD = {
    "horizon": (lambda d: small(horizon=0).fit(d), "horizon is 0"),
    "short": (lambda d: small(horizon=60).fit(d), "longest series has 60 steps"),
    "head": (lambda d: small(head="bell").fit(d), "head is 'bell'"),
    "column": (lambda d: small(known=["sale"]).fit(d), "no column 'sale'"),
    "target": (lambda d: small(target="shop", static=[]).fit(d), "'shop' holds categories"),
    "steps": (lambda d: small(steps=0).fit(d), "steps is 0"),
    "unfitted": (lambda d: small().predict(), "not been fitted"),
    "holidays": (lambda d: Forecaster(holidays="US").fit({"y": np.random.randn(99)}), "no column of dates"),
    "infinite": (lambda d: small().fit(changed(d, y=np.where(np.arange(len(d["y"])) == 3, np.inf, d["y"]))), "row 3"),
    "empty": (lambda d: small().fit(changed(d, y=np.full(len(d["y"]), np.nan))), "'y'"),
    "unsorted": (lambda d: small().fit(changed(d, ds=d["ds"][::-1])), "'ds'"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case):
    make, message = BAD[case]
    with pytest.raises(InputError, match=message):
        make(table(gaps=False))


def test_bad_input_loses_nothing(fitted):
    forecaster, past, future, _ = fitted
    known = {name: future[name] for name in ("unique_id", "ds", "promo")}
    before = forecaster.predict(known=known)["y"]
    for call, message in [
        (lambda: forecaster.predict(), "'promo'"),
        (lambda: forecaster.predict(known=rows(known, np.arange(len(known["ds"])) % H < 2)), "whole horizon"),
        (lambda: forecaster.predict(known=rows(known, known["unique_id"] == "a")), "series 'b'"),
        (lambda: forecaster.predict(known=known, level=[101]), "level is 101"),
        (lambda: forecaster.predict(known=known, quantiles=[1.5]), "quantiles is 1.5"),
        (lambda: forecaster.update(past), "no later"),
        (lambda: forecaster.update({k: v for k, v in future.items() if k != "rain"}), "'rain'"),
        (lambda: forecaster.evaluate(past, windows=99), "99 windows"),
    ]:
        with pytest.raises(InputError, match=message):
            call()
    assert (forecaster.predict(known=known)["y"] == before).all()


def test_a_loss_that_is_no_number_is_refused():
    with pytest.raises(RecurraError, match="learning_rate"):
        small(learning_rate=1e30, steps=20).fit(table())


def test_a_file_of_another_task_is_refused(fitted, tmp_path):
    fitted[0].save(tmp_path)
    text = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(text.replace('"forecast"', '"classify"'))
    with pytest.raises(InputError, match="'classify'"):
        Forecaster.load(tmp_path)
    with pytest.raises(InputError, match="cannot be read"):
        Forecaster.load(tmp_path / "nowhere")


def test_the_horizon_is_read_in_part():
    forecaster = small(steps=1).fit(table())
    read = torch.randn(2, 3, 12)
    ahead = {"promo": torch.rand(2, 3, H), "ds": torch.rand(2, 3, H).double() * 1e9}
    outlook = horizon.outlook(forecaster.model_)
    first = {name: value[:, :, :1] for name, value in ahead.items()}
    assert_close("first", outlook(read, first, 1), outlook(read, ahead)[:, :, :1])
