"""Every law can fail: each rejects its broken recurrences and engines, and none rejects what is sound."""

import pytest
import torch
from broken import (
    Compiling,
    Detached,
    FirstStepOnly,
    ForgetsWindow,
    Grouped,
    Healthy,
    HidesState,
    LeakySlope,
    LooksFarBack,
    LosesNaN,
    MixesPadding,
    OtherwiseCompiled,
    Peeks,
    PeeksFar,
    ReadsLength,
    ReadsMaskAhead,
    Rounding,
    SaysWithheld,
    Shifted,
    SpreadsNaN,
    TellsTheWhole,
    WithholdsMore,
    WrongSlope,
)
from users import FLAWED, SOUND, SRU, Predictor, Rounded

from recurra import InputError
from recurra.engines import choose
from recurra.testing import laws
from recurra.testing.laws import LAWS, check_recurrence

BROKEN = {
    "same_as_reference": [Shifted, Detached],
    "cut_anywhere": [ForgetsWindow],
    "single_steps": [ReadsLength],
    "packed_and_padded": [MixesPadding],
    "beside_x": [ReadsMaskAhead, TellsTheWhole],
    "rows_are_alone": [Grouped],
    "long_sequences": [Peeks, PeeksFar, LooksFarBack, LeakySlope, ForgetsWindow],
    "gradients_are_derivatives": [WrongSlope],
    "rounds_like_the_reference": [Rounding],
    "nan_stays_where_it_is": [SpreadsNaN, LosesNaN, SaysWithheld, WithholdsMore],
    "any_shape": [FirstStepOnly],
    "is_a_module": [HidesState],
    "is_traceable": [OtherwiseCompiled],
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


@pytest.mark.parametrize(("engine", "flawed"), [(engine, kind) for engine, kinds in FLAWED.items() for kind in kinds])
def test_what_is_flawed_is_rejected_by_name(engine, flawed):
    with pytest.raises(AssertionError, match=rf"^law \w+ on engine '{engine}' in torch.float64: \S"):
        check_recurrence(lambda: flawed(4), engines=[engine], dtypes=[torch.float64])


@pytest.fixture
def untraced(monkeypatch):
    """Without what takes a second for each layer: PyTorch's own tracers."""
    monkeypatch.delitem(LAWS, "is_traceable")


@pytest.mark.usefixtures("untraced")
@pytest.mark.parametrize("sound", SOUND)
def test_what_is_sound_keeps_the_laws_on_the_reference(sound):
    check_recurrence(lambda: sound(4), engines=["loop"])


def test_what_is_sound_keeps_the_laws_on_every_engine():
    check_recurrence(lambda: Healthy(4))


@pytest.mark.slow
@pytest.mark.parametrize("sound", SOUND)
def test_what_is_sound_keeps_the_laws_whatever_is_drawn(sound):
    for _ in range(3):
        check_recurrence(lambda: sound(4))


def test_which_kernels_newton_needs_may_depend_on_numbers():
    for _ in range(8):
        LAWS["path_is_known"](lambda: SRU(4), "newton", torch.float32)


def test_a_class_inside_a_function_keeps_the_laws():
    class Local(Healthy):
        pass

    LAWS["is_a_module"](lambda: Local(4), "loop", torch.float64)


def test_what_does_not_reach_the_output_may_be_stated():
    LAWS["nan_stays_where_it_is"](lambda: Predictor(4), "loop", torch.float64)
    for wrong, words in (({"z": "?"}, "gives gate, x as numbers"), ({"x": " "}, "no reason for 'x'")):
        kind = type("Wrong", (Predictor,), {"withheld": wrong})
        with pytest.raises(AssertionError, match=words):
            LAWS["nan_stays_where_it_is"](lambda kind=kind: kind(4), "loop", torch.float64)


EXCEPTION = {"gradients_are_derivatives": "the gradient of floor is passed straight through"}


@pytest.mark.usefixtures("untraced")
def test_a_law_may_be_excepted_with_a_reason():
    with pytest.raises(AssertionError, match="law gradients_are_derivatives on engine 'loop'"):
        check_recurrence(lambda: Rounded(4), engines=["loop"], dtypes=[torch.float64])
    check_recurrence(lambda: Rounded(4), engines=["loop"], dtypes=[torch.float64], except_for=EXCEPTION)


@pytest.mark.usefixtures("untraced")
def test_an_exception_that_is_not_needed_fails():
    with pytest.raises(AssertionError, match=r"law gradients_are_derivatives is kept: .* 'the gradient of floor"):
        check_recurrence(lambda: Healthy(4), engines=["loop"], dtypes=[torch.float64], except_for=EXCEPTION)


def test_an_exception_stands_for_its_law_only():
    with pytest.raises(AssertionError, match="law cut_anywhere on engine 'loop'"):
        check_recurrence(lambda: ReadsLength(4), engines=["loop"], except_for=EXCEPTION)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"gradient": "?"}, "except_for names 'gradient'; the laws are same_as_reference"),
        ({"any_shape": ""}, "expected a dict from names of laws to reasons"),
        (["any_shape"], "expected a dict from names of laws to reasons"),
    ],
)
def test_exceptions_are_looked_at(given, words):
    with pytest.raises(InputError, match=words):
        check_recurrence(lambda: Healthy(4), except_for=given)


@pytest.mark.usefixtures("untraced")
def test_it_says_how_far_it_is(monkeypatch):
    told = []

    class Watched:
        def __init__(self, label, total):
            told.append((label, total))

        def __enter__(self):
            return lambda done, note="": told.append((done, note))

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(laws, "progress", Watched)
    check_recurrence(lambda: Healthy(4), engines=["loop"], dtypes=[torch.float64])
    total = told[0][1]
    assert [done for done, _ in told[1:]] == list(range(total + 1))
    assert told[1] == (0, "same_as_reference on loop in float64")


def test_it_is_quiet_where_nobody_watches(capfd, monkeypatch):
    for name in list(LAWS)[1:]:
        monkeypatch.delitem(LAWS, name)
    check_recurrence(lambda: Healthy(4), engines=["loop"], dtypes=[torch.float64])
    assert capfd.readouterr() == ("", "")
