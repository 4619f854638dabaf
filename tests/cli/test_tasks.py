"""Fit, predict, update, evaluate and compare as a person meets them, on files."""

import io
import json
import sys

import numpy as np
import pytest

from recurra.cli.main import main
from recurra.compare import table, trial
from recurra.compare.series import plan
from recurra.compare.trial import Trial
from recurra.data.tabular import read_table
from recurra.data.writing import write_table
from recurra.errors import InputError

SMALL = ["--set", "mlp=8", "--width", "8", "--steps", "3", "--pattern", "min-gru"]


def called(*arguments, given=""):
    """(exit code, standard output, standard error) of the command line."""
    before, out, err = sys.argv, io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["recurra", *map(str, arguments)])
        patch.setattr(sys, "stdin", io.StringIO(given))
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        with pytest.raises(SystemExit) as ended:
            main()
    assert sys.argv is before
    return ended.value.code, out.getvalue(), err.getvalue()


def answers(text):
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture(scope="module")
def sales(tmp_path_factory):
    """A file of two series, and a run fitted on it."""
    folder = tmp_path_factory.mktemp("sales")
    days = np.datetime64("2024-01-01") + np.arange(40)
    columns = {
        "unique_id": np.repeat(np.array(["a", "b"], object), 40),
        "ds": np.tile(days, 2),
        "y": np.random.default_rng(0).normal(10, 2, 80).round(3),
        "open": np.tile([1, 0], 40),
    }
    columns["y"][5] = np.nan
    write_table(folder / "sales.csv", columns)
    code, out, err = called(
        "fit", "forecast", folder / "sales.csv", "--out", folder / "run", "--horizon", 3, "--windows", 2,
        "--known", "open", "--json", *SMALL,
    )  # fmt: skip
    assert code == 0, err
    assert err == ""
    assert set(json.loads(out)["result"]["floors"]) == {"naive"}
    return folder


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


@pytest.fixture(scope="module")
def walks(tmp_path_factory):
    """Files of series of unequal lengths whose labels are what they rise by, and a run of each task."""
    folder, dice = tmp_path_factory.mktemp("walks"), np.random.default_rng(0)
    for part, count in (("train", 12), ("test", 6)):
        slopes = dice.choice([-1.0, 1.0], count)
        rows = [dice.normal(size=dice.integers(4, 9)) + slope * 3 for slope in slopes]
        lines = [",".join(f"{value:.3f}" for value in row) for row in rows]
        names = ["down" if slope < 0 else "up" for slope in slopes]
        (folder / f"{part}.ts").write_text("@data\n" + "\n".join(f"{a}:{b}" for a, b in zip(lines, names, strict=True)))
        table = [f"{n},{value},{slopes[n]}" for n, row in enumerate(rows) for value in row]
        (folder / f"{part}.csv").write_text("\n".join(["unique_id,level,y", *table]))
    for task, ending in (("classify", "ts"), ("regress", "csv")):
        code, out, err = called(
            "fit", task, folder / f"train.{ending}", "--test", folder / f"test.{ending}", "--out", folder / task,
            "--json", *SMALL, "--steps", 60,
        )  # fmt: skip
        assert code == 0, err
        assert json.loads(out)["result"]["cases"] == 6
    return folder


@pytest.mark.parametrize(("task", "ending"), [("classify", "ts"), ("regress", "csv")])
def test_one_answer_for_each_sequence(walks, tmp_path, task, ending):
    test, run = walks / f"test.{ending}", walks / task
    told = answers(called("predict", run, test, "--json")[1])
    assert [row["id"] for row in told] == [str(n) for n in range(6)]
    report = json.loads(called("evaluate", run, "--data", test, "--json", "--pictures", tmp_path)[1])
    if task == "classify":
        assert all(row["p-up"] + row["p-down"] == pytest.approx(1) for row in told)
        right = [line.split(":")[1] for line in test.read_text().splitlines()[1:]]
        assert report["accuracy"] == np.mean([row["class"] == name for row, name in zip(told, right, strict=True)])
        assert report["accuracy"] > 0.8
        assert (tmp_path / "confusion.png").exists()
    else:
        bounds = answers(called("predict", run, test, "--json", "--quantiles", "0.1,0.9")[1])
        assert all(row["y-q-0.1"] < row["y-q-0.9"] for row in bounds)
        assert report["mae"] < report["floors"]["mean"]["mae"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict", "{classify}"], "data is missing; a model to classify predicts from a file"),
        (
            ["predict", "{classify}", "{ts}", "--level", "80"],
            "level is nothing that a model to classify can be asked for",
        ),
        (["predict", "{classify}", "--follow"], "follow needs a model that goes on"),
        (["predict", "{classify}", "{csv}"], "has no column 'x'"),
        (["update", "{classify}", "{ts}"], "is a model to classify; expected one that goes on"),
        (["predict", "{classify}", "{ts}", "--picture", "a.png"], "only forecasts are drawn"),
        (["fit", "classify", "{ts}", "--windows", "2"], "a model to classify is scored on other sequences"),
        (["fit", "classify", "{ts}", "--known", "x"], "classify has no setting 'known'"),
        (["fit", "regress", "{ts}"], "expected a number"),
        (["evaluate", "{classify}", "--data", "{other}"], "y[0] is 'sideways', which was never seen while fitting"),
        (["predict", "{classify}", "{wide}"], "wide.ts, case 0 has 2 channels; expected 1"),
    ],
)
def test_bad_cases_are_one_line(walks, arguments, message):
    (walks / "other.ts").write_text("@data\n1,2:sideways")
    (walks / "wide.ts").write_text("@data\n1,2:3,4:up")
    names = {"{classify}": walks / "classify", "{ts}": walks / "train.ts", "{csv}": walks / "train.csv"}
    names |= {"{other}": walks / "other.ts", "{wide}": walks / "wide.ts"}
    code, out, err = called(*(names.get(argument, argument) for argument in arguments))
    assert code == 2, err
    assert out == ""
    assert message in err
    assert err.count("\n") == 1


WORD = "{n}\t{word}\t_\t{tag}\t_\t_\t0\t_\t_\t_"


@pytest.fixture(scope="module")
def sentences(tmp_path_factory):
    """A file in which vowels are tagged V and other words C, and a run fitted on it."""
    folder, dice = tmp_path_factory.mktemp("sentences"), np.random.default_rng(0)
    lines = []
    for _ in range(30):
        words = dice.choice(list("aeioubcdfgh"), dice.integers(1, 6))
        tags = ["V" if word in "aeiou" else "C" for word in words]
        lines += [WORD.format(n=n, word=w, tag=t) for n, (w, t) in enumerate(zip(words, tags, strict=True), 1)] + [""]
    (folder / "all.conllu").write_text("\n".join(lines))
    code, out, err = called(
        "fit", "tag", folder / "all.conllu", "--test", folder / "all.conllu", "--out", folder / "run", "--json", *SMALL,
        "--steps", 80,
    )  # fmt: skip
    assert code == 0, err
    assert json.loads(out)["result"]["accuracy"] > 0.9
    return folder


def test_tags(sentences):
    (sentences / "new.txt").write_text("a b\n\nu\n")
    told = answers(called("predict", sentences / "run", sentences / "new.txt", "--json")[1])
    assert told == [
        {"sentence": 0, "word": "a", "tag": "V"}, {"sentence": 0, "word": "b", "tag": "C"},
        {"sentence": 1, "word": "u", "tag": "V"},
    ]  # fmt: skip
    again = answers(called("predict", sentences / "run", sentences / "all.conllu", "--json")[1])
    report = json.loads(called("evaluate", sentences / "run", "--data", sentences / "all.conllu", "--json")[1])
    right = np.mean([(row["tag"] == "V") == (row["word"] in "aeiou") for row in again])
    assert report["accuracy"] == pytest.approx(right)
    (sentences / "odd.conllu").write_text(WORD.format(n=1, word="a", tag="Q") + "\n")
    for data, message in (("odd.conllu", "line 1: upos 'Q' was never seen"), ("new.txt", "holds no tags")):
        code, _, err = called("evaluate", sentences / "run", "--data", sentences / data)
        assert code == 2
        assert message in err


def test_anomalies(tmp_path):
    dice = np.random.default_rng(0)
    y = np.sin(np.arange(260) / 4) + 0.05 * dice.normal(size=260)
    bad = np.isin(np.arange(260), [230, 250])
    usual = {"ds": np.arange(200), "y": y[:200]}
    write_table(tmp_path / "usual.csv", usual)
    write_table(tmp_path / "new.csv", {"ds": np.arange(260), "y": y + 9 * bad, "bad": bad.astype(int)})
    run = tmp_path / "run"
    fitted = called("fit", "detect", tmp_path / "usual.csv", "--out", run, "--set", "rate=0.05", *SMALL, "--steps", 60)
    assert fitted[0] == 0, fitted[2]
    report = json.loads(called("evaluate", run, "--data", tmp_path / "new.csv", "--labels", "bad", "--json")[1])
    told = answers(called("predict", run, tmp_path / "new.csv", "--json")[1])
    assert report["recall"] == 1
    assert report["found"] == sum(row["anomaly"] for row in told)
    assert told[230]["anomaly"]
    given = "\n".join(json.dumps({"ds": 200 + n, "y": value}) for n, value in enumerate([y[200], 20.0]))
    followed = answers(called("update", run, "--follow", given=given)[1])
    assert [row["anomaly"] for row in followed][1]
    for arguments, message in (
        (["evaluate", run, "--data", tmp_path / "new.csv"], "a model to detect is scored with --labels; came none"),
        (["fit", "detect", tmp_path / "usual.csv", "--test", tmp_path / "new.csv"], "is scored by `recurra evaluate"),
        (["compare", "detect", tmp_path / "usual.csv"], "expected one with a number to compare by"),
        (["predict", run], "data is missing"),
    ):
        code, _, err = called(*arguments)
        assert code == 2
        assert message in err


def test_translations(tmp_path):
    dice = np.random.default_rng(0)
    words = ["".join(dice.choice(list("abc"), dice.integers(1, 4))) for _ in range(60)]
    lines = [f"{word},{' '.join('P' + letter for letter in word)}" for word in words]
    (tmp_path / "pairs.csv").write_text("\n".join(["word,sounds", *lines]))
    (tmp_path / "new.txt").write_text("\n".join(words[:3]))
    run, pairs = tmp_path / "run", tmp_path / "pairs.csv"
    code, out, err = called(
        "fit", "translate", pairs, "--test", pairs, "--out", run, "--json", *SMALL, "--width", 24, "--steps", 150
    )
    assert code == 0, err
    wrong = json.loads(out)["result"]["wrong"]
    assert wrong < 0.5
    assert json.loads(called("evaluate", run, "--data", pairs, "--json")[1])["wrong"] == wrong
    told = answers(called("predict", run, tmp_path / "new.txt", "--json")[1])
    assert [row["source"] for row in told] == words[:3]
    assert all(set(row["target"].split()) <= {"Pa", "Pb", "Pc"} for row in told)
    assert answers(called("predict", run, "--follow", given="\n".join(words[:3]))[1]) == told


def test_recommendations(tmp_path):
    rows = [f"{user},{(user + step) % 7}" for user in range(12) for step in range(8)]
    (tmp_path / "events.csv").write_text("\n".join(["user_id,item_id", *rows]))
    run = tmp_path / "run"
    code, out, err = called(
        "fit", "recommend", tmp_path / "events.csv", "--windows", 1, "--out", run, "--json", *SMALL, "--steps", 80,
        "--set", "again=true",
    )  # fmt: skip
    assert code == 0, err
    assert json.loads(out)["result"]["ndcg"] > json.loads(out)["result"]["floors"]["popular"]["ndcg"]
    told = answers(called("predict", run, "--json")[1])
    # What was held out was read before the model was saved: user 3 has had 3, 4, ... 9, 10, and 11 comes next.
    assert [row["item"] for row in told if row["user"] == "3" and row["rank"] == 1] == ["4"]
    followed = answers(called("update", run, "--follow", given='{"user_id": "3", "item_id": "4"}\n{"user_id": "3"}')[1])
    assert followed[0]["item"][0] == "5"
    assert "has no column 'item_id'" in followed[1]["error"]


def test_a_run_of_something_else(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    for arguments in (["predict", tmp_path], ["update", tmp_path, "x.csv"]):
        code, _, err = called(*arguments)
        assert code == 2
        assert "holds no model of a task" in err


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
    asked = Trial.of("forecast", "us_births/M", 0.2, {"width": 8}, None, None)
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
    asked = Trial.of("forecast", str(sales / "sales.csv"), 1, {"horizon": 3}, None, 2)
    found = plan(asked, ["gru", "lstm", "gru"], 2)
    assert [(t.pattern, t.seed) for t in found] == [("gru", 0), ("lstm", 0), ("gru", 1), ("lstm", 1)]
    assert len({t.key for t in found}) == 4
    with pytest.raises(InputError, match="no column 'price'"):
        plan(Trial.of("forecast", str(sales / "sales.csv"), 1, {"target": "price"}, None, 2), ["gru"], 1)
