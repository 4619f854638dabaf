"""Every law can fail: each rejects its broken recurrence or engine, and accepts the healthy one."""

import pytest
import torch
from broken import (
    Compiling,
    Detached,
    FirstStepOnly,
    ForgetsWindow,
    Healthy,
    HidesState,
    MixesPadding,
    Peeks,
    ReadsLength,
    Rounding,
    Shifted,
    SpreadsNaN,
    WrongSlope,
)

from recurra.engines import choose
from recurra.testing.laws import LAWS, check_recurrence

BROKEN = {
    "same_as_reference": [Shifted, Detached],
    "cut_anywhere": [ForgetsWindow],
    "single_steps": [ReadsLength],
    "packed_and_padded": [MixesPadding],
    "causal": [Peeks],
    "gradients_are_derivatives": [WrongSlope],
    "rounds_like_the_reference": [Rounding],
    "nan_stays_where_it_is": [SpreadsNaN],
    "any_shape": [FirstStepOnly],
    "is_a_module": [HidesState],
    "path_is_known": [Compiling],
}


def test_every_law_has_something_to_reject():
    assert set(BROKEN) == set(LAWS)


@pytest.mark.parametrize(("law", "broken"), [(law, kind) for law, kinds in BROKEN.items() for kind in kinds])
def test_law_rejects(law, broken, monkeypatch):
    dtype = torch.float32 if law == "rounds_like_the_reference" else torch.float64
    engine = "loop"
    if not issubclass(broken, Healthy):
        engine = "broken"
        monkeypatch.setitem(choose.ENGINES, "broken", broken)
    make = (lambda: broken(4)) if engine == "loop" else (lambda: Healthy(4))
    with pytest.raises((AssertionError, RuntimeError, IndexError)):
        LAWS[law](make, engine, dtype)


def test_the_healthy_one_passes():
    check_recurrence(lambda: Healthy(4), engines=["loop"])


def test_check_recurrence_names_the_law():
    with pytest.raises(AssertionError, match=r"law cut_anywhere on engine 'loop' in torch.float64"):
        check_recurrence(lambda: Peeks(4), engines=["loop"])
