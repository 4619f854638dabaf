"""A fit that was killed goes on from its folder to the bits that it would have had; every estimator's."""

import json
import signal
import threading

import numpy as np
import pytest
import torch

import recurra
from recurra.errors import InputError, RecurraError
from recurra.training import fitting

SMALL = {"width": 12, "steps": 7, "batch": 3}


def _series():
    t = np.arange(90)
    return {"ds": np.datetime64("2024-01-01") + t, "y": 10 + np.sin(t) + np.random.randn(90), "x": np.random.rand(90)}


def _cases():
    return [np.random.randn(2, n) for n in (9, 4, 12, 7, 1, 8)]


WORDS = [["the", "dog", "sees", "it"], ["it", "runs"], ["dog"], ["the", "dog", "runs"]]
TAGS = [["D", "N", "V", "P"], ["P", "V"], ["N"], ["D", "N", "V"]]
EVENTS = {"user_id": ["a"] * 5 + ["b"] * 4, "item_id": ["tea", "cup", "jug", "tea", "cup", "jug", "cup", "tea", "jug"]}
FITS = {
    "forecaster": (lambda: recurra.Forecaster("gru+mamba", horizon=3, window=8, **SMALL), lambda: (_series(),)),
    "detector": (lambda: recurra.Detector("gru", rate=0.2, window=8, **SMALL), lambda: (_series(),)),
    "classifier": (lambda: recurra.Classifier("gru", **SMALL), lambda: (_cases(), list("abcabc"))),
    "regressor": (lambda: recurra.Regressor("lstm", **SMALL), lambda: (_cases(), [1.0, 2.5, 0.5, 3.0, 2.0, 1.0])),
    "tagger": (lambda: recurra.Tagger("lstm", **SMALL), lambda: (WORDS, TAGS)),
    "translator": (lambda: recurra.Translator("gru", **SMALL), lambda: ([("abc", "cba"), ("ab", "ba"), ("ca", "ac")],)),
    "recommender": (lambda: recurra.Recommender("min-gru", window=4, **SMALL), lambda: (EVENTS,)),
}


def weights(estimator):
    return {name: value.clone() for name, value in estimator.model_.state_dict().items()}


class Killed(Exception):
    pass


def kill_at(step):
    def progress(now):
        if now["step"] == step:
            raise Killed

    return progress


@pytest.mark.parametrize("name", FITS)
def test_a_fit_goes_on_to_the_same_bits(name, tmp_path, monkeypatch):
    monkeypatch.setattr(fitting, "EVERY", 2)
    make, data = FITS[name]
    given = data()
    whole = weights(make().fit(*given))
    for step in (1, 5):  # before the first checkpoint, and between two
        folder = tmp_path / str(step)
        with pytest.raises(Killed):
            make().fit(*given, progress=kill_at(step), folder=folder)
        seen = []
        found = make().fit(*given, folder=folder, resume=True, progress=lambda now, seen=seen: seen.append(now["step"]))
        assert seen == list(range(step // 2 * 2 + 1, 8))
        assert all(torch.equal(value, whole[key]) for key, value in weights(found).items())
    again = make().fit(*given, folder=folder, resume=True, progress=kill_at(7))  # it is over: no step is made
    assert all(torch.equal(value, whole[key]) for key, value in weights(again).items())


@pytest.mark.usefixtures("usual_interrupt")
def test_ctrl_c_keeps_the_update_at_hand(tmp_path):
    make, data = FITS["forecaster"]
    given = data()
    whole = weights(make().fit(*given))

    def progress(now):
        if now["step"] == 3:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        make().fit(*given, folder=tmp_path / "run", progress=progress)
    seen = []
    found = make().fit(*given, folder=tmp_path / "run", resume=True, progress=lambda now: seen.append(now["step"]))
    assert seen[0] == 4
    assert all(torch.equal(value, whole[key]) for key, value in weights(found).items())


def test_another_fit_is_not_taken_up(tmp_path, monkeypatch):
    monkeypatch.setattr(fitting, "EVERY", 2)
    make, data = FITS["classifier"]
    X, y = data()
    run = tmp_path / "run"
    with pytest.raises(InputError, match="resume is True without a folder"):
        make().fit(X, y, resume=True)
    with pytest.raises(InputError, match="holds no fit to resume"):
        make().fit(X, y, folder=run, resume=True)
    assert not run.exists()
    with pytest.raises(Killed):
        make().fit(X, y, folder=run, progress=kill_at(3))
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    others = [
        (make().set_params(width=13), X, y, "width differ"),
        (make(), X, y[::-1], "data differ"),
        (make(), [X[0] + 1, *X[1:]], y, "data differ"),
    ]
    for other, cases, labels, message in others:
        with pytest.raises(InputError, match=message):
            other.fit(cases, labels, folder=run, resume=True)
    with pytest.raises(InputError, match="was not finished; resume it or choose another"):
        make().fit(X, y, folder=run)
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before
    (run / "fit.json").write_text(json.dumps([1]))
    with pytest.raises(InputError, match=r"fit\.json' cannot be read"):
        make().fit(X, y, folder=run, resume=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(RecurraError, match="cannot be used"):
        make().fit(X, y, folder=tmp_path / "file")


def test_a_folder_has_one_fit_at_a_time(tmp_path):
    make, data = FITS["classifier"]
    given, begun, over = data(), threading.Event(), threading.Event()

    def wait(_):
        begun.set()
        assert over.wait(60)

    first = threading.Thread(target=lambda: make().fit(*given, folder=tmp_path, progress=wait))
    first.start()
    assert begun.wait(60)
    try:
        with pytest.raises(InputError, match="in use by another run"):
            make().fit(*given, folder=tmp_path, resume=True)
    finally:
        over.set()
        first.join()
