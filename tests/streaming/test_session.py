"""Streaming: the same tokens in another process, and memory that does not grow."""

import gc
import json
import resource
import subprocess
import sys
from itertools import islice, pairwise, repeat

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import recurra
from recurra.models import files
from recurra.models.language_model import LanguageModel
from recurra.state import State
from recurra.streaming.session import PIECE, Session
from recurra.testing.tolerances import assert_close


def tiny(pattern="mamba+slstm"):
    torch.manual_seed(0)
    return LanguageModel(width=8, pattern=pattern).eval()


def same(a, b):
    return torch.equal(a.logits, b.logits) and all(torch.equal(a.state[name], b.state[name]) for name in a.state)


@settings(max_examples=15)
@given(cuts=st.lists(st.integers(0, 60), max_size=3), text=st.binary(min_size=60, max_size=60))
def test_feeding_in_pieces_equals_the_whole_sequence(cuts, text):
    net = tiny()
    session, places = net.stream(), [0, *sorted(cuts), 60]
    for start, end in pairwise(places):
        logits = session.feed(text[start:end])
    whole, state = net(torch.tensor([list(text)]))
    assert_close("logits", logits, whole[0, -1])
    for name in state:
        assert_close(name, session.state[name], state[name])


def test_bytes_integers_and_tensors_are_the_same_tokens():
    text = bytes(range(200)) * (1 + PIECE // 200)
    forms = [text, list(text), iter(text), torch.tensor(list(text))]
    sessions = [tiny().stream() for _ in forms]
    for session, form in zip(sessions, forms, strict=True):
        session.feed(form)
    assert all(same(sessions[0], other) for other in sessions[1:])


def test_a_session_goes_on_from_a_state():
    first = tiny().stream()
    first.feed(b"once ")
    second = tiny().stream(first.state)
    assert torch.equal(first.feed(b"upon"), second.feed(b"upon"))


@pytest.mark.parametrize("pattern", ["mamba+slstm", "lru+gru", "min-gru"])
def test_another_process_goes_on_with_the_same_tokens(tmp_path, pattern):
    net = tiny(pattern)
    files.save(net, tmp_path)
    session = net.stream(seed=3)
    session.feed(b"once upon")
    list(session.generate(5))
    session.save(tmp_path / "session")
    expected = list(session.generate(40)) + list(session.generate(5, temperature=0.5, top_k=9))
    program = (
        "import json, sys, recurra; from recurra.streaming.session import Session; "
        "session = Session.load(recurra.load(sys.argv[1]), sys.argv[2]); "
        "print(json.dumps(list(session.generate(40)) + list(session.generate(5, temperature=0.5, top_k=9))))"
    )
    command = [sys.executable, "-c", program, tmp_path, tmp_path / "session"]
    other = subprocess.run(command, capture_output=True, check=True, text=True)
    assert json.loads(other.stdout) == expected
    assert len(set(expected)) > 10


def test_saving_between_two_tokens_loses_none(tmp_path):
    session = tiny().stream(seed=1)
    tokens = session.generate()
    head = list(islice(tokens, 7))
    session.save(tmp_path / "session")
    tail = list(islice(tokens, 7))
    assert list(Session.load(tiny(), tmp_path / "session").generate(7)) == tail
    assert list(tiny().stream(seed=1).generate(14)) == head + tail
    assert list(tiny().stream().generate(14, seed=1)) == head + tail


def test_a_session_that_is_not_one_of_this_model(tmp_path):
    path = tmp_path / "session"
    tiny().stream().save(path)
    for other in (tiny("lstm"), tiny("mamba*2"), tiny().double(), LanguageModel(vocabulary=9, width=8, pattern="lstm")):
        with pytest.raises(recurra.InputError, match="another model"):
            Session.load(other, path)
    damaged = State.load(path)
    damaged["session.generator"] = torch.zeros_like(damaged["session.generator"])
    damaged.save(path)
    with pytest.raises(recurra.InputError, match="damaged"):
        Session.load(tiny(), path)
    path.write_bytes(path.read_bytes()[:100])
    for file in (path, tmp_path / "none"):
        with pytest.raises(recurra.InputError, match="cannot be read"):
            Session.load(tiny(), file)


def test_choice_of_tokens():
    session = tiny().stream()
    session.feed(b"a")
    likeliest = int(session.logits.argmax())
    for options in ({"temperature": 0}, {"top_k": 1}, {"temperature": 1e-44}):
        session = tiny().stream()
        session.feed(b"a")
        assert next(session.generate(1, **options)) == likeliest
    few = set(session.logits.topk(3).indices.tolist())
    draws = set()
    for seed in range(40):
        session = tiny().stream(seed=seed)
        session.feed(b"a")
        few = set(session.logits.topk(3).indices.tolist())
        draws |= set(session.generate(1, top_k=3, temperature=5.0))
    assert draws == few


@pytest.mark.parametrize(
    ("option", "value"),
    [("temperature", value) for value in (-1, float("nan"), float("inf"), 10**400, "1", None, True, [1])]
    + [("top_k", value) for value in (0, 1.5, "3", True, 10**30, torch.ones(2))]
    + [("count", value) for value in (-1, "a", 2.0, True, [1], torch.ones(2))]
    + [("seed", value) for value in ("a", 1.5, 2**64, True)],
    ids=lambda value: str(value)[:20],
)
def test_bad_options_are_refused_before_the_first_token(option, value):
    with pytest.raises(recurra.InputError, match=rf"^{option} is .*; expected"):
        tiny().stream().generate(**{option: value})


@pytest.mark.parametrize("tokens", ["text", [1.5], [256], [-1], ["a"], [2**70], torch.zeros(1, 2), [1.0, 2]], ids=str)
def test_what_is_no_token_leaves_the_session_as_it_was(tokens):
    session, untouched = tiny().stream(), tiny().stream()
    session.feed(b"abc")
    untouched.feed(b"abc")
    bad = tokens if isinstance(tokens, str | torch.Tensor) else [*bytes(PIECE), *tokens]
    with pytest.raises(recurra.InputError, match="tokens"):
        session.feed(bad)
    assert same(session, untouched)
    session.feed(b"")
    assert same(session, untouched)


def test_scores_that_are_not_finite_are_an_error():
    net = tiny()
    torch.nn.init.constant_(net.norm.weight, float("nan"))
    session = net.stream()
    session.feed(b"a")
    with pytest.raises(recurra.RecurraError, match="not finite"):
        next(session.generate(1))


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def held(session):
    """Bytes of state, and bytes of the memory it keeps alive."""
    return session.state.nbytes, sum(value.untyped_storage().nbytes() for value in session.state.values())


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_is_constant_over_a_million_tokens_read():
    session = tiny("min-gru").stream()
    session.feed(repeat(65, 20 * PIECE))
    gc.collect()
    bytes_held, before = held(session), resident()
    session.feed(repeat(66, 1_000_000))
    assert held(session) == bytes_held
    assert bytes_held[0] == bytes_held[1]
    assert resident() - before < 5e6


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("tokens", [5_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_memory_is_constant_over_tokens_written(tokens):
    session = tiny("min-gru").stream()
    generator = session.generate()
    assert sum(1 for _ in islice(generator, 1000)) == 1000
    gc.collect()
    bytes_held, before = held(session), resident()
    assert sum(1 for _ in islice(generator, tokens)) == tokens
    assert held(session) == bytes_held
    assert bytes_held[0] == bytes_held[1]
    assert resident() - before < 5e6
