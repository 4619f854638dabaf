"""What cannot be used is told in a line or two that say where it is, and what was fitted stays as it was."""

import numpy as np
import pytest

import recurra
from recurra.errors import InputError
from recurra.tasks.detector import Detector

SMALL = {"pattern": "min-gru", "width": 8, "mlp": 8, "steps": 2}
DAYS = np.datetime64("2024-01-01") + np.arange(40)
NAN, INF = np.nan, np.inf


def texts(*found):
    return np.array(found, object)


def table(**changes):
    """Two series of 20 days; None leaves a column out, (place, value) changes one value."""
    columns = {
        "unique_id": np.repeat(texts("a", "b"), 20), "ds": np.tile(DAYS[:20], 2), "y": np.sin(np.arange(40.0)),
        "open": np.tile([1.0, 0.0], 20), "kind": np.tile(texts("x", "y"), 20),
    }  # fmt: skip
    for name, change in changes.items():
        if isinstance(change, tuple):
            columns[name][change[0]] = change[1]
        else:
            columns[name] = change
    return {name: column for name, column in columns.items() if column is not None}


def ahead(**changes):
    columns = {"unique_id": np.repeat(texts("a", "b"), 3), "ds": np.tile(DAYS[20:23], 2), "open": np.ones(6)}
    return columns | changes


def row(**changes):
    return {"unique_id": ["a"], "ds": DAYS[20:21], "y": [1.0], "open": [1.0], "kind": ["x"]} | changes


def forecaster(**settings):
    return recurra.Forecaster(**SMALL | {"horizon": 3, "known": ["open"]} | settings)


X, LABELS = np.random.default_rng(0).normal(size=(8, 2, 9)), list("uv") * 4


def with_step(value):
    return np.where(np.arange(9) == 3, value, X)


def classifier(**settings):
    return recurra.Classifier(**SMALL | settings)


def regressor():
    return recurra.Regressor(**SMALL)


def tagger():
    return recurra.Tagger(**SMALL)


def translator():
    return recurra.Translator("gru", width=8, steps=2)


def recommender():
    return recurra.Recommender("min-gru", width=8, steps=2)


def detector(**settings):
    return Detector(**SMALL | settings)


WORDS, TAGS = [["a", "b"], ["c"]] * 3, [["X", "Y"], ["X"]] * 3
PAIRS = [("abc", "cba"), ("ab", "ba")] * 3
EVENTS = {"user_id": ["u1", "u1", "u2", "u2", "u2"], "item_id": ["i1", "i2", "i1", "i3", "i2"]}
UNFITTED = {
    "no target": (lambda: forecaster().fit(table(y=None)), "no column 'y'; expected one among"),
    "texts to forecast": (lambda: forecaster().fit(table(y=np.tile(texts("u", "v"), 20))), "'y' holds categories"),
    "an empty target": (lambda: forecaster().fit(table(y=np.full(40, NAN))), "column 'y' is empty in all 40 rows"),
    "a constant target": (lambda: forecaster().fit(table(y=np.ones(40))), "column 'y' is 1.0 in all 40 rows"),
    "an infinite target": (lambda: forecaster().fit(table(y=(5, INF))), "row 5, column 'y' is inf"),
    "an infinite column": (lambda: forecaster().fit(table(open=(5, -INF))), "row 5, column 'open' is -inf"),
    "a time twice": (lambda: forecaster().fit(table(ds=(5, DAYS[4]))), "row 5, column 'ds': 2024-01-05 comes twice"),
    "falling times": (lambda: forecaster().fit(table(ds=(5, DAYS[2]))), "row 5, column 'ds': 2024-01-03 comes after"),
    "a missing time": (lambda: forecaster().fit(table(ds=(5, np.datetime64("NaT")))), "row 5, column 'ds' is None"),
    "other steps": (
        lambda: forecaster().fit(table(ds=np.concatenate([DAYS[:20], DAYS[0] + 7 * np.arange(20)]))),
        "series 'b' has other steps than 'a' in 'ds'",
    ),
    "too short": (lambda: forecaster(horizon=20).fit(table()), "has 20 steps; a horizon of 20 needs more"),
    "no horizon": (lambda: forecaster(horizon=0).fit(table()), "horizon is 0"),
    "no such column": (lambda: forecaster(known=["price"]).fit(table()), "no column 'price'"),
    "nothing static": (lambda: forecaster(static=["kind"]).fit(table()), "static column 'kind' changes within"),
    "no rows": (lambda: forecaster().fit({name: column[:0] for name, column in table().items()}), "has no rows"),
    "uneven columns": (lambda: forecaster().fit(table(y=np.ones(39))), "39 in 'y'.* expected columns of one length"),
    "no table": (lambda: forecaster().fit(3), "frame is 3"),
    "not fitted": (lambda: forecaster().predict(), "has not been fitted"),
    "texts to classify": (lambda: classifier().fit([["a", "b"]] * 8, LABELS), "X, case 0 is"),
    "infinite numbers": (lambda: classifier().fit(with_step(INF), LABELS), "case 0, channel 0, step 3 is infinite"),
    "nothing there": (lambda: classifier().fit(X * NAN, LABELS), "channel 0 is NaN in all cases"),
    "an empty sequence": (lambda: classifier().fit([*X[:7], X[7, :, :0]], LABELS), r"case 7 is \[2, 0\]"),
    "no cases": (lambda: classifier().fit(X[:0], []), "X holds no case"),
    "too few labels": (lambda: classifier().fit(X, LABELS[:7]), "y has 7 answers; expected 8"),
    "no label": (lambda: classifier().fit(X, [0, 1, NAN, 1, 0, 1, 0, 1.0]), r"y\[2\] is nan"),
    "one class": (lambda: classifier().fit(X, ["u"] * 8), "y holds one class, 'u'"),
    "numbers as classes": (lambda: classifier().fit(X, np.arange(8) / 7), "For numbers there is a Regressor"),
    "no pool": (lambda: classifier(pool="best").fit(X, LABELS), "pool is 'best'"),
    "texts as numbers": (lambda: regressor().fit(X, LABELS), "y holds what is no number"),
    "an infinite answer": (lambda: regressor().fit(X, [0, 1, 2, INF, 0, 1, 2, 3]), r"y\[3\] is inf"),
    "tags that are too few": (lambda: tagger().fit(WORDS, [["X"]] * 6), "sentence 0 has 2 words and 1 tags"),
    "an empty sentence": (lambda: tagger().fit([*WORDS, []], [*TAGS, []]), r"sentence 6 is \[\]"),
    "no word": (lambda: tagger().fit([["a", None]], [["X", "Y"]]), "sentence 0 holds None"),
    "an empty target text": (lambda: translator().fit([*PAIRS, ("a", "")]), r"pairs\[6\], target is ''"),
    "no pair": (lambda: translator().fit([("a", "b", "c")]), r"pairs\[0\] is \('a', 'b', 'c'\)"),
    "no item": (lambda: recommender().fit({"user_id": ["u"], "item_id": [None]}), "column 'item_id' is empty"),
    "too little held out": (lambda: detector().fit({"y": np.sin(np.arange(40.0))}), "10 steps are held out"),
}  # fmt: skip


@pytest.mark.parametrize("case", UNFITTED)
def test_what_cannot_be_fitted(case):
    told(*UNFITTED[case])


def told(work, words):
    with pytest.raises(InputError, match=words) as raised:
        work()
    text = str(raised.value)
    assert text.count("\n") < 2
    assert len(text) < 300


LATER = {
    "forecast": (
        lambda: forecaster().fit(table()),
        lambda found: found.predict(known=ahead())["y"],
        {
            "known is missing": lambda found: found.predict(),
            "known has no row of series 'a' at 2024-01-23": lambda found: found.predict(
                known={name: column[[0, 1, 3, 4, 5]] for name, column in ahead().items()}
            ),
            "row 0, column 'open' is 'z'": lambda found: found.predict(known=ahead(open=texts(*"zzzzzz"))),
            "level is 120": lambda found: found.predict(known=ahead(), level=[120]),
            "quantiles is 2": lambda found: found.predict(known=ahead(), quantiles=[2]),
            "no column 'kind'": lambda found: found.predict(table(kind=None), known=ahead()),
            "row 0, column 'y' is 'w'": lambda found: found.predict(table(y=texts(*"w" * 40)), known=ahead()),
            "series 'a' begins no later": lambda found: found.update(table()),
            "row 0, column 'y' is inf": lambda found: found.update(row(y=[INF])),
            "no column 'open'": lambda found: found.update({"unique_id": ["a"], "ds": DAYS[20:21], "y": [1.0]}),
            "expected times in whole steps": lambda found: found.update(row(ds=DAYS[20:21] + np.timedelta64(5, "h"))),
            "row, 'y' is 'q'": lambda found: found.stream("a").update(
                {"ds": DAYS[20], "y": "q", "open": 1.0, "kind": "x"}
            ),
            "there are 2 series": lambda found: found.stream(),
            "windows is 0": lambda found: found.evaluate(table(), windows=0),
            "50 windows of 3": lambda found: found.evaluate(table(), windows=50),
        },
    ),
    "classify": (
        lambda: classifier().fit(X, LABELS),
        lambda found: found.predict_proba(X),
        {
            "case 0 has 1 channels; expected 2": lambda found: found.predict(X[:, :1]),
            r"case 0 is \[2, 0\]": lambda found: found.predict(X[:, :, :0]),
            "step 3 is infinite": lambda found: found.predict(with_step(INF)),
            "expected 2 numbers": lambda found: found.stream().update([1.0, 2.0, 3.0]),
            "y has 1 answers; expected 8": lambda found: found.evaluate(X, ["u"]),
        },
    ),
    "tag": (
        lambda: tagger().fit(WORDS, TAGS),
        lambda found: found.predict(WORDS[:1]),
        {
            r"sentence 0 is \[\]": lambda found: found.predict([[]]),
            "sentence 0 is 'a'": lambda found: found.predict("ab"),
            "sentence 0: tag 'Q' was never seen": lambda found: found.evaluate([["a"]], [["Q"]]),
        },
    ),
    "translate": (
        lambda: translator().fit(PAIRS),
        lambda found: [found.predict(["ab", "abc"])],
        {
            r"pairs\[0\], source is ''": lambda found: found.predict([""]),
            "sources is 'ab'; expected a list": lambda found: found.predict("ab"),
            "beam is 0": lambda found: found.predict(["ab"], beam=0),
        },
    ),
    "recommend": (
        lambda: recommender().fit(EVENTS),
        lambda found: [found.predict("u1")],
        {
            "user is 'q'": lambda found: found.predict("q"),
            "column 'item_id' is 'zz'": lambda found: found.update({"user_id": ["u1"], "item_id": ["zz"]}),
            "k is 0": lambda found: found.predict("u1", k=0),
        },
    ),
    "detect": (
        lambda: detector(rate=0.2).fit({"y": np.sin(np.arange(40.0))}),
        lambda found: found.predict({"y": np.ones(3)})["surprise"],
        {
            "labels are <U1": lambda found: found.evaluate({"y": np.ones(3)}, ["a", "b", "c"]),
            r"labels are \[2\]; expected \[3\]": lambda found: found.evaluate({"y": np.ones(3)}, [0, 1]),
            "no column 'y'": lambda found: found.update({"x": np.ones(3)}),
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("task", LATER)
def test_what_cannot_be_answered_changes_nothing(task, tmp_path):
    fit, answer, cases = LATER[task]
    found = fit()
    before = answer(found)
    for words, work in cases.items():
        told(lambda work=work: work(found), words)
    np.testing.assert_array_equal(answer(found), before)
    found.save(tmp_path)
    other = regressor() if task != "regress" else classifier()
    told(lambda: type(other).load(tmp_path), f"is of the task '{task}'")
