"""Files on the disk: whole or not at all, open to whom the umask says, and nothing but files are read."""

import os
import signal
import stat
from pathlib import Path

import pytest
import torch

import recurra
from recurra import LanguageModel, State, sealed
from recurra.data.text import read
from recurra.files import read_json, read_text, write_atomically
from recurra.models import files
from recurra.streaming.session import Session


@pytest.fixture
def no_waiting():
    """What waits for a pipe, or reads a device without an end, fails."""

    def ring(*_):
        raise TimeoutError("it waits")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("umask", [0o077, 0o027, 0o022, 0o002, 0])
def test_files_follow_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        State(h=torch.zeros(1)).save(tmp_path / "state")
        files.save(LanguageModel(8, 8, "rnn", mlp=0), tmp_path / "model")
        write_atomically(tmp_path / "own", b"", mode=0o600)
        write_atomically(tmp_path / "own", b"again", mode=0o600)
    finally:
        os.umask(before)
    for path in (tmp_path / "state", *(tmp_path / "model").iterdir()):
        assert mode(path) == 0o666 & ~umask, path
    assert mode(tmp_path / "own") == 0o600 & ~umask
    assert mode(tmp_path / "model") == 0o777 & ~umask


def no_files(tmp_path):
    """A path to each thing that is no file."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "link to a pipe").symlink_to("pipe")
    (tmp_path / "folder").mkdir()
    return [*tmp_path.iterdir(), tmp_path / "none", Path("/dev/zero"), Path("/dev/null")]


@pytest.mark.usefixtures("no_waiting")
def test_what_is_no_file_is_not_read(tmp_path):
    model = LanguageModel(8, 8, "rnn", mlp=0)
    for path in no_files(tmp_path):
        for load in (State.load, lambda path: Session.load(model, path)):
            with pytest.raises(recurra.InputError, match=r"file .* cannot be read: ") as caught:
                load(path)
            assert "\n" not in str(caught.value)
        for load in (read_text, read_json):
            with pytest.raises(OSError, match=r"directory|neither|symbolic"):
                load(path)


@pytest.mark.parametrize("path", ["", ".", "x" * 5000, "a/" * 3000, "\ud800", "/dev/zero", "none"])
@pytest.mark.usefixtures("no_waiting")
def test_odd_paths(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    model = LanguageModel(8, 8, "rnn", mlp=0)
    for call in (State.load, lambda path: Session.load(model, path), recurra.load, read):
        with pytest.raises((recurra.InputError, OSError)) as caught:
            call(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(recurra.InputError, match="path is"):
        State.load("a\0b")


@pytest.mark.usefixtures("no_waiting")
def test_what_is_no_file_is_not_replaced(tmp_path):
    for path in no_files(tmp_path):
        if not path.exists() or not path.is_relative_to(tmp_path):
            continue
        before = os.lstat(path)
        with pytest.raises(OSError, match=r"directory|neither|symbolic"):
            State(h=torch.zeros(1)).save(path)
        assert os.lstat(path).st_ino == before.st_ino, path
    (tmp_path / "kept").write_text("kept")
    (tmp_path / "link").symlink_to("kept")
    State(h=torch.zeros(1)).save(tmp_path / "link")
    assert (tmp_path / "kept").read_text() == "kept"
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]


def test_text_that_is_none(tmp_path):
    path = tmp_path / "text"
    for content, words in {
        b"\xff{}": "decode",
        b"[1]": "it holds a list; expected an object",
        b"[" * 100_000: "nested too deeply",
        b'{"a": ' * 100_000: "nested too deeply",
        b"": "Expecting value",
        b"9" * 5000: "limit",
    }.items():
        path.write_bytes(content)
        with pytest.raises(ValueError, match=words):
            read_json(path)
    with open(path, "wb") as file:
        file.truncate(2**40)  # it takes no room on the disk
    with pytest.raises(ValueError, match="1099511627776 bytes long"):
        read_text(path)
    path.write_text('{"ä": 1}', encoding="utf-8")
    assert read_json(path) == {"ä": 1}


def test_a_file_without_its_digest_is_refused(tmp_path):
    """Earlier versions wrote none; nothing says then that the numbers are those that were written."""
    from safetensors.torch import load_file, save_file

    State(h=torch.randn(2, 3)).save(tmp_path / "state", {"of": "a test"})
    save_file(load_file(tmp_path / "state"), tmp_path / "state", {"of": "a test"})
    with pytest.raises(recurra.InputError, match="holds no digest"):
        State.load(tmp_path / "state")
    tensors, facts = sealed.read(tmp_path / "state", "file", needed=False)
    assert list(tensors) == ["h"]
    assert facts == {"of": "a test"}


def test_tensors_that_are_one_memory_are_written_one_by_one(tmp_path):
    both = torch.randn(4, 4)
    state = State(a=both, b=both, c=both[1:], d=both.T, e=torch.randn(1, 4).expand(3, 4))
    state.save(tmp_path / "state")
    again = State.load(tmp_path / "state")
    assert all(torch.equal(again[name], value) for name, value in state.items())
