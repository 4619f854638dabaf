"""`recurra generate` that is interrupted."""

import subprocess
import sys

import recurra
from recurra.cli import generate
from recurra.models import files
from recurra.streaming.session import Session

INTERRUPTED = """
import os, signal
from recurra.cli.main import main
from recurra.streaming.session import Session

def drawn(session, *choices, draw=Session._draw, count=[]):
    count.append(0)
    if len(count) == 4:
        os.kill(os.getpid(), signal.SIGINT)
    return draw(session, *choices)

signal.signal(signal.SIGINT, signal.default_int_handler)  # also where whoever runs the tests ignores it
Session._draw = drawn
main()
"""


def test_what_was_written_before_an_interrupt_is_in_the_saved_session(tmp_path):
    files.save(recurra.LanguageModel(pattern="gru", width=8), tmp_path / "model")
    asked = ["generate", tmp_path / "model", "--prompt", "the ", "--count", 12, "--save", tmp_path / "talk"]
    cut = subprocess.run([sys.executable, "-c", INTERRUPTED, *map(str, asked)], capture_output=True)
    assert cut.returncode == 130, cut.stderr
    model = recurra.load(tmp_path / "model")
    expected = model.stream(seed=0)
    expected.feed(b"the ")
    written = list(expected.generate(4, 0.7))
    assert cut.stdout.decode() == "the " + "".join(generate.as_text(iter(written))) + "\n"
    went_on = Session.load(model, tmp_path / "talk")
    assert list(went_on.generate(8, 0.7)) == list(expected.generate(8, 0.7))
