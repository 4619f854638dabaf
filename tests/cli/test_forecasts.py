"""Predict, update and evaluate a forecaster as a person meets them, on files."""

import json

import numpy as np
import pytest
from calling import answers, called

from recurra.data.tabular import read_table
from recurra.data.writing import write_table


def copied(sales, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    for file in (sales / "run").iterdir():
        (run / file.name).write_bytes(file.read_bytes())
    return run


def known(days, path):
    write_table(path, {"unique_id": np.repeat(np.array(["a", "b"], object), days), "open": [1.0, 0.0] * days,
                       "ds": np.tile(np.datetime64("2024-02-10") + np.arange(days), 2)})  # fmt: skip
    return path


def test_forecasts(sales, tmp_path):
    ahead = known(3, tmp_path / "known.csv")
    code, printed, err = called("predict", sales / "run", "--known", ahead, "--level", "80,95")
    assert code == 0, err
    (tmp_path / "out.csv").write_text(printed)
    table = read_table(tmp_path / "out.csv")
    # The windows held out were read before the model was saved.
    assert table.columns["ds"].tolist() == ["2024-02-10", "2024-02-11", "2024-02-12"] * 2
    assert set(table.columns) == {"unique_id", "ds", "y", "y-lo-80", "y-hi-80", "y-lo-95", "y-hi-95"}
    assert (table.numbers("y-lo-95") < table.numbers("y-lo-80")).all()
    for name in ("out.jsonl", "again.csv"):
        assert called("predict", sales / "run", "--known", ahead, "--out", tmp_path / name)[0] == 0
        assert np.allclose(read_table(tmp_path / name).numbers("y"), table.numbers("y"))
    lines = answers(called("predict", sales / "run", "--known", ahead, "--json")[1])
    assert np.allclose([line["y"] for line in lines], table.numbers("y"))


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_a_picture_of_forecasts(sales, tmp_path, ending):
    picture, ahead = tmp_path / f"ahead.{ending}", known(3, tmp_path / "known.csv")
    code, _, err = called(
        "predict", sales / "run", sales / "sales.csv", "--known", ahead, "--level", "80", "--picture", picture
    )
    assert code == 0, err
    assert picture.stat().st_size > 5000
    wrong = called("predict", sales / "run", "--known", ahead, "--picture", tmp_path / "ahead.gif")
    assert wrong[0] == 2
    assert "expected a file that ends in .png" in wrong[2]


def test_evaluate(sales, tmp_path):
    code, out, err = called("evaluate", sales / "run", "--data", sales / "sales.csv", "--windows", 2, "--json")
    assert code == 0, err
    assert json.loads(out)["origins"] == 4
    told = called("evaluate", sales / "run", "--data", sales / "sales.csv", "--pictures", tmp_path, "--season", 2)
    assert "seasonal naive" in told[1]
    assert "naive" in told[1]
    assert {file.name for file in tmp_path.iterdir()} == {"horizon.png", "coverage.png"}


ROWS = [("a", "2024-02-10", 9.5, 1), ("b", "2024-02-10", "", 1), ("a", "2024-02-11", 11, 0)]
NAMES = ("unique_id", "ds", "y", "open")


def test_updates_by_file_and_by_line_are_one(sales, tmp_path):
    one, other = copied(sales, tmp_path), sales / "run"
    lines = [",".join(map(str, row)) for row in (NAMES, *ROWS)]
    (tmp_path / "new.csv").write_text("\n".join(lines))
    told = answers(called("update", one, tmp_path / "new.csv", "--json")[1])
    (tmp_path / "b").mkdir()
    (tmp_path / "c").mkdir()
    for place, given in (
        (tmp_path / "b", "\n".join(lines)),
        (tmp_path / "c", "\n".join(json.dumps(dict(zip(NAMES, row, strict=True))) for row in ROWS)),
    ):
        run = copied(sales, place)
        code, out, err = called("update", run, "--follow", given=given)
        assert code == 0, err
        followed = sorted(answers(out), key=lambda row: (row["unique_id"], row["ds"]))
        for row, expected in zip(followed, sorted(told, key=lambda row: (row["unique_id"], row["ds"])), strict=True):
            assert [row["unique_id"], row["ds"], row["y"]] == [expected["unique_id"], expected["ds"], expected["y"]]
            for name in ("expected", "surprise"):
                assert row[name] == expected[name] or row[name] == pytest.approx(expected[name], rel=1e-4)
        # The run folder goes on from there.
        assert called("update", run, tmp_path / "new.csv")[0] == 2
    assert called("update", other, "--follow", given="")[0] == 0


def test_a_bad_line_is_answered_and_the_next_one_read(sales, tmp_path):
    run = copied(sales, tmp_path)
    rows = ["a,2024-02-09,1,0", "a,2024-02-10,inf,1", "a,2024-02-10,1", "a,soon,1,1", "a,2024-02-10,12,1"]
    code, out, err = called("update", run, "--follow", given="\n".join([",".join(NAMES), *rows]))
    assert code == 0
    found = answers(out)
    assert [row.get("line") for row in found] == [2, 3, 4, 5, None]
    assert found[-1]["y"] == 12
    assert "series 'a'" in found[0]["error"]
    assert found[1]["error"] == "standard input, line 3, column 'y' is inf; expected a finite number, or nothing"
    assert found[2]["error"] == "standard input, line 4 has 3 values; expected 4, as the names in line 1"
    assert "line 5, column 'ds' is 'soon'" in found[3]["error"]
    assert len(err.splitlines()) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit", "cooking", "{data}"], "task is 'cooking'; expected one of forecast"),
        (["fit", "forecast", "none.csv"], "data 'none.csv' cannot be read: No such file"),
        (["fit", "forecast", "{data}", "--horizon", "0"], "horizon is 0; expected a positive int"),
        (["fit", "forecast", "{data}", "--target", "price"], "sales.csv has no column 'price'"),
        (["fit", "forecast", "{data}", "--set", "sped=3"], "forecast has no setting 'sped'; it has pattern"),
        (["fit", "forecast", "{data}", "--set", "width"], "set is 'width'; expected name=value"),
        (["fit", "forecast", "{data}", "--horizon", "30", "--windows", "2"], "series 'a' has 40 steps; to hold out 2"),
        (["fit", "forecast", "turkish"], "data set 'turkish' is to tag; the task asked for is 'forecast'"),
        (["fit", "forecast", "{data}", "--test", "x.csv"], "a model to forecast is scored on what comes last"),
        (["predict", "nowhere"], "run 'nowhere' is no folder"),
        (["predict", "{run}", "--level", "high"], "level is 'high'; expected numbers"),
        (["predict", "{run}"], "known is missing"),
        (["predict", "{run}", "--follow", "--out", "x.csv"], "expected no data, no out and no picture"),
        (["update", "{run}"], "expected either a file of new rows, or --follow"),
        (["evaluate", "{run}"], "data is missing; expected a file to score"),
        (["compare", "forecast", "{data}", "--models", "gru,gro", "--windows", "1"], "'gro'"),
        (["compare", "forecast", "{data}"], "nothing is held out to be scored on"),
        (["compare", "forecast", "{data}", "--models", ","], "models is empty"),
    ],
)
def test_bad_input_is_one_line(sales, arguments, message):
    names = {"{data}": str(sales / "sales.csv"), "{run}": str(sales / "run")}
    code, out, err = called(*(names.get(argument, argument) for argument in arguments))
    assert code == 2
    assert out == ""
    assert message in err
    assert err.count("\n") == 1
