"""The command line called in this process."""

import io
import json
import sys

import pytest

from recurra.cli.main import main

SMALL = ["--set", "mlp=8", "--width", "8", "--steps", "3", "--pattern", "min-gru"]


def called(*arguments, given=""):
    """(exit code, standard output, standard error) of the command line."""
    before, out, err = sys.argv, io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["recurra", *map(str, arguments)])
        patch.setattr(sys, "stdin", io.StringIO(given))
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        with pytest.raises(SystemExit) as ended:
            main()
    assert sys.argv is before
    return ended.value.code, out.getvalue(), err.getvalue()


def answers(text):
    return [json.loads(line) for line in text.splitlines()]
