"""The checks of aeon, through an adapter of a few lines, where that library is installed."""

import pytest

from recurra import Classifier, Regressor

SMALL = {"pattern": "min-gru", "width": 8, "steps": 20, "mlp": 0, "dropout": 0.0}


def adapted(kind):
    """A class of aeon's that hands everything on to an estimator of ours."""
    base = pytest.importorskip("aeon.classification.base" if kind is Classifier else "aeon.regression.base")
    parent = base.BaseClassifier if kind is Classifier else base.BaseRegressor

    class Adapted(parent):
        _tags = {
            "capability:multivariate": True, "capability:unequal_length": True, "capability:missing_values": True,
            "X_inner_type": ["np-list", "numpy3D"],
        }  # fmt: skip

        def __init__(self, seed=0):
            self.seed = seed
            super().__init__()

        def _fit(self, X, y):
            self.estimator_ = kind(seed=self.seed, **SMALL).fit(X, y)
            return self

        def _predict(self, X):
            return self.estimator_.predict(X)

        def _predict_proba(self, X):
            return self.estimator_.predict_proba(X)

        @classmethod
        def _get_test_params(cls, parameter_set="default"):  # noqa: ARG003
            return {}

    if kind is Regressor:
        del Adapted._predict_proba
    # Pickle looks for classes by their names in modules.
    Adapted.__qualname__ = Adapted.__name__ = f"Adapted{kind.__name__}"
    return globals().setdefault(Adapted.__name__, Adapted)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [Classifier, Regressor])
def test_aeon_checks_it(kind):
    checks = pytest.importorskip("aeon.testing.estimator_checking")
    found = checks.check_estimator(adapted(kind)())
    assert len(found) > 20
    assert not {name: told for name, told in found.items() if told != "PASSED" and not told.startswith("SKIPPED")}
