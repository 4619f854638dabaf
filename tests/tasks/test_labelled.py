"""Classifiers and regressors: sequences of any lengths as they are, row by row, together and alone."""

import numpy as np
import pytest
import torch

from recurra.data.arrays import from_arrays
from recurra.errors import InputError
from recurra.tasks.classifier import Classifier
from recurra.tasks.pools import POOLS
from recurra.tasks.regressor import Regressor
from recurra.testing.tolerances import assert_close


def cases(count=24, channels=2, low=3, high=12):
    """Sequences of unequal lengths, with holes, and whether they rise."""
    X, y = [], []
    for n in range(count):
        t = np.arange(np.random.randint(low, high))
        rises = n % 2
        x = np.random.randn(channels, len(t)) * 0.2 + (1 if rises else -1) * t / 3
        x[np.random.rand(*x.shape) < 0.1] = np.nan
        X.append(x)
        y.append("up" if rises else "down")
    return X, np.array(y)


def classifier(**options):
    return Classifier(**{"pattern": "gru", "width": 10, "steps": 3, "batch": 8} | options)


def same(what, one, other):
    assert_close(what, torch.tensor(one).float(), torch.tensor(other).float())


@pytest.mark.parametrize(("pool", "pattern", "bidirectional"), [
    *((name, "gru+mamba", False) for name in POOLS), ("mean", "lstm", True), ("attention", "min-gru", True),
])  # fmt: skip
def test_together_and_alone_and_row_by_row(pool, pattern, bidirectional):
    X, y = cases()
    found = classifier(pool=pool, pattern=pattern, bidirectional=bidirectional).fit(X, y)
    together = found.predict_proba(X)
    same("sum", together.sum(1), np.ones(len(X)))
    order = np.random.permutation(len(X))
    same("in another order", found.predict_proba([X[n] for n in order]), together[order])
    for n in range(4):
        same("alone", found.predict_proba([X[n]])[0], together[n])
    if bidirectional:
        with pytest.raises(InputError, match="both directions"):
            found.stream()
        return
    stream = found.stream()
    for t in range(X[0].shape[1]):
        told = stream.update(X[0][:, t])
        same(f"after {t + 1} rows", told, found.predict_proba([X[0][:, : t + 1]])[0])


@pytest.mark.parametrize("scale", ["running", "none"])
def test_scales(scale):
    X, y = cases()
    found = classifier(scale=scale).fit(X, y)
    if scale == "running":
        same("units", found.predict_proba([1e5 * x for x in X]), found.predict_proba(X))


def test_it_learns():
    X, y = cases(60)
    found = classifier(steps=60, balanced=True).fit(X, y)
    X, y = cases(60)
    report = found.evaluate(X, y)
    assert report["accuracy"] > 0.9 > report["floors"]["most frequent"]["accuracy"]
    assert report["interval"][0] < report["accuracy"] <= report["interval"][1]
    assert np.trace(report["confusion"]) == round(report["accuracy"] * 60)
    assert found.score(X, y) == report["accuracy"]
    assert "accuracy" in str(report)


@pytest.mark.parametrize("labels", [["b", "a"], [7, 3], [True, False], [0.0, 2.0], [np.str_("x"), np.str_("y")]])
def test_labels_come_back_as_they_were(labels, tmp_path):
    X, y = cases()
    y = np.array([labels[name == "up"] for name in y])
    found = classifier().fit(X, y)
    assert found.predict(X).dtype == y.dtype
    assert set(found.predict(X).tolist()) <= set(y.tolist())
    found.save(tmp_path)
    loaded = Classifier.load(tmp_path)
    assert (loaded.predict_proba(X) == found.predict_proba(X)).all()
    assert loaded.classes_.tolist() == found.classes_.tolist()
    assert loaded.score(X, y) == found.score(X, y)


def test_sequences_with_a_target_are_data_too():
    X, y = cases()
    sequences = from_arrays(X, y)
    one, other = classifier().fit(sequences), classifier().fit(X, y)
    assert (one.predict(sequences) == other.predict(X)).all()
    assert one.evaluate(sequences)["accuracy"] == other.evaluate(X, y)["accuracy"]


def test_flat_arrays_are_series_of_one_channel():
    X, y = np.random.randn(9, 6), np.arange(9) % 2
    found = classifier().fit(X, y)
    same("axes", found.predict_proba(X[:, None]), found.predict_proba(X))
    assert isinstance(found.stream().update(0.5), np.ndarray)


@pytest.mark.parametrize("head", ["normal", "quantile"])
def test_numbers(head, tmp_path):
    X, y = cases()
    y = np.array([x.shape[1] * 1000.0 for x in X])
    found = Regressor("gru", head=head, pool="last", width=8, steps=150).fit(X, y)
    report = found.evaluate(X, y)
    assert report["mae"] < report["floors"]["mean"]["mae"]
    quantiles = found.predict_quantiles(X, [0.1, 0.5, 0.9])
    assert (np.diff(quantiles) >= 0).all()
    stream = found.stream()
    for t in range(X[0].shape[1]):
        told = stream.update(X[0][:, t])
    same("stream", [told], found.predict(X[:1]))
    found.save(tmp_path)
    assert (Regressor.load(tmp_path).predict(X) == found.predict(X)).all()


@pytest.mark.parametrize("kind", [Classifier, Regressor])
def test_scikit_learn_copies_validates_and_searches(kind):
    base, chosen = pytest.importorskip("sklearn.base"), pytest.importorskip("sklearn.model_selection")
    X, y = np.random.randn(12, 5), np.arange(12) % 2
    found = kind("min-gru", width=4, steps=2)
    assert base.is_classifier(found) == (kind is Classifier)
    assert base.clone(found).get_params() == found.get_params()
    assert len(chosen.cross_val_score(found, X, y, cv=3)) == 3
    best = chosen.GridSearchCV(found, {"width": [3, 5]}, cv=2).fit(X, y).best_params_
    assert best["width"] in (3, 5)


@pytest.mark.parametrize("T", [1, 2, 7, 40])
def test_answers_are_the_same_to_the_bit_however_many_come_together(T):
    X, y = np.random.randn(70, 3, T), np.random.randn(70)
    found = Regressor("gru", width=16, steps=3).fit(X[:20], y[:20])
    together = found.predict(X)
    for part in (slice(0, 1), slice(3, 12), slice(40, 69)):
        assert (found.predict(X[part]) == together[part]).all()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Estimator .* does not inherit from")
@pytest.mark.parametrize("kind", [Classifier, Regressor])
def test_scikit_learn_checks_it(kind):
    """All of scikit-learn's own checks; it may skip those that need what is not installed."""
    checks = pytest.importorskip("sklearn.utils.estimator_checks")
    made = kind("min-gru", width=16, steps=150, mlp=0, dropout=0.0)
    found = checks.check_estimator(made, on_fail=None, on_skip=None)
    failed = {each["check_name"]: str(each["exception"]) for each in found if each["status"] == "failed"}
    assert len(found) > 40
    assert not failed


class Sparse:
    """Looks like a sparse matrix of SciPy."""

    shape = (24, 3)

    def tocsr(self):
        raise NotImplementedError


BAD = {
    "sparse": (lambda X, y: classifier().fit(Sparse(), y), "X is sparse"),
    "complex X": (lambda X, y: classifier().fit(np.ones((24, 3), complex), y), "X is complex128"),
    "continuous": (lambda X, y: classifier().fit(X, np.arange(24) / 7), "continuous"),
    "columns": (lambda X, y: classifier(steps=1).fit(np.eye(24), y).predict(np.eye(3)), "3 features, but .* 24"),
    "one class": (lambda X, y: classifier().fit(X, ["a"] * len(X)), "one class, 'a'"),
    "answers": (lambda X, y: classifier().fit(X, y[1:]), "y has 23 answers; expected 24"),
    "none": (lambda X, y: classifier().fit(X), "y is missing"),
    "missing": (lambda X, y: classifier().fit(X, [None, *y[1:]]), r"y\[0\] is None"),
    "infinite": (lambda X, y: Regressor("gru", steps=1).fit(X, np.full(len(X), np.inf)), "finite"),
    "text": (lambda X, y: Regressor("gru", steps=1).fit(X, y), "no number"),
    "complex": (lambda X, y: Regressor("gru", steps=1).fit(X, np.full(len(X), 1j)), "no number"),
    "pool": (lambda X, y: classifier(pool="sum").fit(X, y), "pool is 'sum'"),
    "smoothing": (lambda X, y: classifier(smoothing=1).fit(X, y), "smoothing is 1"),
    "crop": (lambda X, y: classifier(crop=1).fit(X, y), "crop is 1"),
    "channels": (lambda X, y: classifier(steps=1).fit(X, y).predict([x[:1] for x in X]), "1 channels; expected 2"),
    "row": (lambda X, y: classifier(steps=1).fit(X, y).stream().update([1.0]), "1 channels; expected 2"),
    "unfitted": (lambda X, y: classifier().predict(X), "not been fitted"),
    "empty": (lambda X, y: classifier(steps=1).fit(X, y).predict([X[0][:, :0]]), "case 0"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case):
    make, message = BAD[case]
    with pytest.raises(InputError, match=message):
        make(*cases())


def test_a_label_never_seen_is_wrong_and_harms_nothing():
    X, y = cases()
    found = classifier(steps=1).fit(X, y)
    new = y.copy().astype("<U9")
    new[0] = "sideways"
    right = (found.predict(X) == new).mean()
    assert abs(found.evaluate(X, new)["accuracy"] - right) < 1e-9


@pytest.mark.parametrize("loss", ["hinge", "ldam"])
def test_classes_by_margins(loss, tmp_path):
    X = [np.random.randn(1, 9) + rises * np.arange(9) for rises in (0, 0, 0, 1) for _ in range(6)]
    y = [rises for rises in (0, 0, 0, 1) for _ in range(6)]
    found = Classifier("gru", loss=loss, balanced=True, width=8, steps=40).fit(X, y)
    assert found.evaluate(X, y)["accuracy"] > 0.8
    found.save(tmp_path)
    assert (Classifier.load(tmp_path).predict_proba(X) == found.predict_proba(X)).all()
    with pytest.raises(InputError, match="loss is 'sum'"):
        Classifier(loss="sum").fit(X, y)
