"""Fit, predict, update and evaluate of all tasks but forecasts, on files."""

import json

import numpy as np
import pytest
from calling import SMALL, answers, called

from recurra.data.writing import write_table


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
        (["fit", "detect", tmp_path / "usual.csv", "--test", tmp_path / "new.csv"], "labels is None; expected both"),
        (["compare", "detect", tmp_path / "usual.csv"], "nothing is held out to be scored on"),
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
