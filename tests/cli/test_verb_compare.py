"""`recurra compare`: what is finished is kept, and which model to take."""

import json

import numpy as np
import pytest
from calling import called

from recurra.compare import table, trial
from recurra.compare.series import plan
from recurra.compare.sources import Scoring
from recurra.compare.trial import Trial
from recurra.data.writing import write_table
from recurra.errors import InputError

SETTINGS = {"horizon": 3, "width": 8, "mlp": 8}


def test_compare_goes_on_where_it_stopped(sales, tmp_path, monkeypatch):
    done = []

    def run(asked):
        done.append((asked.pattern, asked.seed))
        if len(done) == 3:
            raise KeyboardInterrupt
        return trial.measure(asked)

    monkeypatch.setattr("recurra.compare.series.run", run)
    arguments = [
        "compare", "forecast", sales / "sales.csv", "--models", "min-gru,gru", "--seconds", 0.2, "--seeds", 2,
        "--windows", 2, "--horizon", 3, "--known", "open", "--out", tmp_path, "--width", 8, "--set", "mlp=8", "--json",
    ]  # fmt: skip
    code, out, err = called(*arguments)
    assert (code, out) == (130, "")
    assert "the same command goes on from here" in err
    code, out, err = called(*arguments)
    assert code == 0, err
    assert sorted(done[2:] + done[:2]) == sorted(
        [("min-gru", 0), ("gru", 0), ("min-gru", 1), ("min-gru", 1), ("gru", 1)]
    )
    found = json.loads(out)
    assert {row["model"] for row in found["rows"]} == {"min-gru", "gru", "naive"}
    assert all(row["seeds"] == 2 and row["microseconds"] > 0 for row in found["rows"] if "seeds" in row)
    assert (tmp_path / "compare.png").stat().st_size > 5000
    assert "naive" in called(*arguments[:-1])[1]
    assert len(done) == 5


@pytest.mark.slow
def test_a_trial_in_a_process_of_its_own():
    asked = Trial.of("forecast", "us_births/M", 0.2, {"width": 8}, Scoring())
    found = trial.run(plan(asked, ["gru"], 1)[0])
    assert found["floors"]["naive"] == pytest.approx(1.4996, abs=1e-3)
    assert found["megabytes"] > 50


def row(model, error, interval, pace):
    return {"model": model, "error": error, "interval": interval, "microseconds": pace, "parameters": 1}


def test_which_to_take():
    rows = [row("a", 1.0, 0.2, 90.0), row("b", 1.1, 0.2, 40.0), row("c", 1.3, 0.2, 10.0)]
    naive = {"model": "naive", "error": 2.0, "interval": None}
    assert table.choice([*rows, naive]).startswith("take b: as good as a")
    assert table.choice([rows[0], rows[2], naive]) == "take a: the smallest error"
    assert table.choice([*rows, naive | {"error": 0.9}]).startswith("take naive: no model was better")


def test_intervals_over_seeds():
    same = {"pattern": "a", "interval": None, "seconds": 1, "parameters": 1, "megabytes": 1, "microseconds": None}
    results = [same | {"error": error, "floors": {}} for error in (1.0, 2.0, 3.0)]
    (found,) = table.summary(results)
    assert found["error"] == 2
    assert found["interval"] == pytest.approx(4.30 / 3**0.5)


def test_plans_are_looked_at_before_anything_is_trained(sales):
    asked = Trial.of("forecast", str(sales / "sales.csv"), 1, {"horizon": 3}, Scoring(windows=2))
    found = plan(asked, ["gru", "lstm", "gru"], 2)
    assert [(t.pattern, t.seed) for t in found] == [("gru", 0), ("lstm", 0), ("gru", 1), ("lstm", 1)]
    assert len({t.key for t in found}) == 4
    with pytest.raises(InputError, match="no column 'price'"):
        plan(Trial.of("forecast", str(sales / "sales.csv"), 1, {"target": "price"}, Scoring(windows=2)), ["gru"], 1)


def watched(path, strange=()):
    """A file of a calm series, which has labels, 1 where it jumps."""
    values, labels = np.sin(np.arange(120.0)), np.zeros(120)
    for place in strange:
        values[place], labels[place] = 50, 1
    write_table(path, {"ds": np.datetime64("2024-01-01") + np.arange(120), "y": values, "wrong": labels})


def test_detectors_are_compared_by_labels(tmp_path, monkeypatch):
    monkeypatch.setattr("recurra.compare.series.run", trial.measure)
    watched(tmp_path / "calm.csv")
    watched(tmp_path / "new.csv", (50, 90))
    files = [tmp_path / "calm.csv", "--test", tmp_path / "new.csv", "--labels", "wrong"]
    small = ["--width", 8, "--set", "mlp=8", "--set", "rate=0.05"]
    code, out, err = called(
        "compare", "detect", *files, *small, "--models", "min-gru", "--seconds", 0.3, "--out", tmp_path / "c", "--json"
    )
    assert code == 0, err
    assert {row["model"] for row in json.loads(out)["rows"]} == {"min-gru", "largest jumps"}
    code, out, err = called(
        "fit", "detect", *files, *small, "--steps", 3, "--pattern", "min-gru", "--out", tmp_path / "r", "--json"
    )
    assert code == 0, err
    assert json.loads(out)["result"]["recall"] == 1
    data = ["--data", tmp_path / "new.csv", "--labels", "wrong"]
    assert "largest jumps" in called("evaluate", tmp_path / "r", *data)[1]
    assert "labels is None; expected both" in called("fit", "detect", *files[:3])[2]
    assert (
        "windows is 3; a model to detect is scored on other series"
        in called("fit", "detect", *files, "--windows", 3)[2]
    )


def test_the_season_of_a_forecast_is_said(sales):
    scoring = Scoring(windows=2, season=7)
    report = trial.measure(
        plan(Trial.of("forecast", str(sales / "sales.csv"), 0.1, SETTINGS, scoring), ["min-gru"], 1)[0]
    )
    assert set(report["floors"]) == {"naive", "seasonal naive"}
    assert (
        "season is 7; a model to classify is scored on other sequences"
        in called("fit", "classify", "x.csv", "--season", 7)[2]
    )
