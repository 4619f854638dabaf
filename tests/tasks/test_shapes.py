"""How often random shapes were seen: what is counted, that it is a recurrence, that few cases are told apart by it."""

import numpy as np
import pytest
import torch

from recurra.errors import InputError
from recurra.tasks.classifier import Classifier
from recurra.tasks.inlets.shapes import Shapes
from recurra.tasks.regressor import Regressor
from recurra.testing.laws import check_recurrence
from recurra.testing.tolerances import assert_close


def test_laws():
    check_recurrence(lambda: Shapes(2, 5, 20), ["compiled"])


@pytest.mark.parametrize(("count", "span", "length"), [(1, 1, 1), (7, 40, 30), (20, 9, 3)])
def test_a_shape_is_seen_as_often_as_its_response_is_above_its_threshold(count, span, length):
    shapes = Shapes(3, count, span).double()
    shapes.threshold.normal_()
    x = torch.randn(2, length, 3, dtype=torch.float64)
    y, _ = shapes(x)
    dealt = [
        step for n, step in enumerate(shapes.dilations) for _ in shapes.threshold.tensor_split(len(shapes.dilations))[n]
    ]
    for row in range(2):
        for shape, (step, weight) in enumerate(zip(dealt, shapes.weight.view(count, 9, 3), strict=True)):
            assert set(weight.flatten().tolist()) <= {-1.0, 0.0, 2.0}
            assert not weight.sum(0).any(), "a shape does not see where a series lies"
            seen = []
            for t in range(length):
                lags = [x[row, t - i * step] if t >= i * step else torch.zeros(3).double() for i in range(9)]
                response = (torch.stack(lags) * weight).sum()
                seen.append(float((response - shapes.threshold[shape] + 0.5).clamp(0, 1)))
                assert_close(f"shape {shape} at {t}", y[row, t, shape], torch.tensor(np.mean(seen)).double())


def waves(count, low, high):
    """Saws that rise slowly and fall at once, and such turned around in time: alike in all but their form."""
    X, y = [], []
    for n in range(count):
        t = np.arange(np.random.randint(low, high)) / 11 + np.random.rand()
        saw = (t % 1 if n % 2 else -t % 1) * 2 - 1
        X.append(np.stack([saw, 3 * saw]) + 0.05 * np.random.randn(2, len(t)))
        y.append("rising" if n % 2 else "falling")
    return X, np.array(y)


def test_few_cases_are_told_apart_by_their_form(tmp_path):
    X, y = waves(20, 40, 70)
    found = Classifier("min-gru", shapes=100, width=8, steps=80).fit(X, y)
    assert found.evaluate(*waves(60, 40, 70))["accuracy"] > 0.9
    found.save(tmp_path)
    assert (Classifier.load(tmp_path).predict_proba(X) == found.predict_proba(X)).all()


@pytest.mark.parametrize("kind", [Classifier, Regressor])
@pytest.mark.parametrize("options", [{"scale": "running"}, {"inlet": torch.sin}, {"bidirectional": True}])
def test_together_and_alone_and_row_by_row(kind, options):
    X, y = waves(8, 1, 20)
    X[0][0, 0] = np.nan
    y = y if kind is Classifier else np.arange(8.0)
    found = kind("gru", shapes=30, width=8, steps=2, **options).fit(X, y)
    tell = found.predict_proba if kind is Classifier else found.predict
    told = torch.from_numpy(np.asarray(tell(X))).float()
    for n in range(3):
        assert_close("alone", torch.from_numpy(np.asarray(tell([X[n]])))[0].float(), told[n])
    if "bidirectional" not in options:
        stream = found.stream()
        for row in X[1].T:
            last = stream.update(row)
        assert_close("row by row", torch.from_numpy(np.asarray(last)).float(), told[1])


@pytest.mark.parametrize(
    ("shapes", "message"), [(-1, "shapes is -1"), (1.5, "shapes is 1.5"), (None, "shapes is None")]
)
def test_bad_input(shapes, message):
    with pytest.raises(InputError, match=message):
        Classifier("gru", shapes=shapes).fit(*waves(4, 5, 9))
