"""`recurra data`: what there is, under which licence, and what is not."""

import json
import sys

import pytest

from recurra.cli.main import main
from recurra.data import sets


@pytest.fixture
def run(monkeypatch, capsys):
    """What the command line prints, and on standard error."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["recurra", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code, *capsys.readouterr()

    return run


def test_a_list_and_one_set(run):
    code, listed, _ = run("data", "--json")
    assert code == 0
    assert [found["name"] for found in json.loads(listed)] == list(sets.SETS)
    assert all(found["licence"] and found["split"] and found["about"] for found in json.loads(listed))
    assert all(name in run("data")[1] for name in sets.SETS)
    told = run("data", "us_births/D")[1]
    assert "public domain" in told
    assert "the last 20 windows of 30" in told
    code, _, wrong = run("data", "us_births/D", "births")
    assert code == 2
    assert wrong.startswith("recurra: data set is 'births'; expected one of us_births/D")
