"""`recurra fit`: what was interrupted goes on."""

import signal

import pytest
from calling import SMALL, called

from recurra.training import checkpoint
from recurra.training.course import Course


@pytest.mark.usefixtures("usual_interrupt")
def test_a_fit_that_was_interrupted_goes_on(sales, tmp_path, monkeypatch):
    command = ["fit", "forecast", sales / "sales.csv", "--horizon", 3, "--windows", 2, *SMALL, "--out"]
    assert called(*command, tmp_path / "whole")[0] == 0

    def saved(*arguments, save=checkpoint.save):
        save(*arguments)
        monkeypatch.undo()
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("recurra.training.fitting.EVERY", 1)
    monkeypatch.setattr(checkpoint, "save", saved)
    code, out, err = called(*command, tmp_path / "cut")
    assert (code, out) == (130, "")
    assert "--resume goes on from here" in err
    code, _, err = called(*command, tmp_path / "cut")
    assert code == 2
    assert "was not finished; resume it" in err
    code, _, err = called("fit", "forecast", sales / "sales.csv", "--windows", 2, "--resume", "--out", tmp_path / "cut")
    assert code == 0, err
    whole, cut = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "cut"))
    assert cut == whole
    # What came before the break is in the course, and so in its picture, once.
    whole, cut = (Course(tmp_path / name).rows() for name in ("whole", "cut"))
    assert [(row["step"], row["loss"]) for row in cut] == [(row["step"], row["loss"]) for row in whole]
    assert [row["step"] for row in cut] == list(range(1, len(cut) + 1))
    code, _, err = called(*command, tmp_path / "cut", "--resume", "--width", 9)
    assert code == 2
    assert "width differ(s)" in err
