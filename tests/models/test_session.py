"""Streaming: the same tokens in another process, and memory that does not grow."""

import resource
import subprocess
import sys

import pytest
import torch

import recurra
from recurra.models import files
from recurra.models.language_model import LanguageModel
from recurra.streaming.session import Session


def tiny(pattern="mamba+slstm"):
    torch.manual_seed(0)
    return LanguageModel(width=8, pattern=pattern).eval()


def test_feeding_equals_the_whole_sequence():
    net = tiny()
    session = net.stream()
    session.feed(b"hello ")
    logits = session.feed(b"world")
    tokens = torch.tensor([list(b"hello world")])
    assert torch.allclose(logits, net(tokens)[0][0, -1], atol=1e-5)


def test_another_process_goes_on_with_the_same_tokens(tmp_path):
    net = tiny()
    files.save(net, tmp_path)
    session = net.stream(seed=3)
    session.feed(b"once upon")
    list(session.generate(5))
    session.save(tmp_path / "session")
    expected = list(session.generate(40))
    program = (
        "from recurra.models.files import load; from recurra.streaming.session import Session; "
        f"print(list(Session.load(load({str(tmp_path)!r}), {str(tmp_path / 'session')!r}).generate(40)))"
    )
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True)
    assert eval(other.stdout) == expected


def test_a_session_of_another_model_is_refused(tmp_path):
    tiny().stream().save(tmp_path / "session")
    with pytest.raises(recurra.InputError, match="another model"):
        Session.load(tiny("lstm"), tmp_path / "session")


def test_choice_of_tokens():
    session = tiny().stream()
    session.feed(b"a")
    likeliest = int(session.logits.argmax())
    assert next(session.generate(1, temperature=0)) == likeliest
    session = tiny().stream()
    session.feed(b"a")
    assert next(session.generate(1, top_k=1)) == likeliest
    for options in ({"temperature": -1}, {"top_k": 0}, {"temperature": float("nan")}):
        with pytest.raises(recurra.InputError):
            next(session.generate(1, **options))


def stream(tokens):
    """State bytes and growth of resident memory in bytes over `tokens` tokens."""
    session = tiny("min-gru").stream()
    feed = torch.zeros(1, dtype=torch.int64)
    with torch.no_grad():
        for _ in range(2000):
            _, session.state = session.model.advance(feed, session.state)
        size, before = session.state.nbytes, resident()
        for _ in range(tokens):
            _, session.state = session.model.advance(feed, session.state)
    assert session.state.nbytes == size
    return resident() - before


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_stays_constant():
    assert stream(10_000) < 5e6


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_stays_constant_over_a_million_tokens():
    assert stream(1_000_000) < 5e6
