"""Text in and out where it is not UTF-8."""

import io
import sys

import pytest

from recurra import LanguageModel
from recurra.cli.main import main
from recurra.models import files
from recurra.streaming.session import Session


def run(monkeypatch, encoding, *arguments):
    """The exit code, and what is printed, as bytes."""
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict")
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "argv", ["recurra", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    out.flush()
    return ended.value.code, out.buffer.getvalue()


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "cp1252", "latin-1", "shift-jis", "utf-16"])
@pytest.mark.parametrize("prompt", [b"the", "née €".encode(), "née".encode("latin-1"), b"\xff\xfe\x80"])
def test_generate(tmp_path, monkeypatch, encoding, prompt):
    """The model reads the bytes that were typed; what a console does not have, it shows as something else."""
    files.save(LanguageModel(256, 8, "min-gru", mlp=0), tmp_path)
    read = []
    feed = Session.feed
    monkeypatch.setattr(Session, "feed", lambda session, tokens: read.append(tokens) or feed(session, tokens))
    typed = prompt.decode("utf-8", "surrogateescape")  # as Python gives arguments
    code, printed = run(monkeypatch, encoding, "generate", tmp_path, "--count", 50, "--prompt", typed)
    assert not code
    assert read[0] == prompt
    shown = prompt.decode("utf-8", "replace").encode(encoding, "replace")
    assert printed.startswith(shown)
    printed.decode(encoding)


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_other_verbs(tmp_path, monkeypatch, encoding):
    (tmp_path / "text").write_bytes("née € ".encode() * 200)
    folder = tmp_path / "rün €"
    train = ["--data", tmp_path / "text", "--out", folder, "--pattern", "rnn", "--width", 8, "--mlp", 8]
    for verb in (
        ["train", *train, "--batch", 2, "--window", 8, "--steps", 2],
        ["evaluate", folder, "--data", tmp_path / "text"],
        ["convert", folder, tmp_path / "kopie é"],
        ["explain", "lmu", "--width", 8],
        ["layers", "--width", 8],
        ["--help"],
    ):
        code, printed = run(monkeypatch, encoding, *verb)
        assert not code, verb
        assert printed.decode(encoding), verb


def test_a_tokenizer_reads_text_only(tmp_path, monkeypatch, capfd):
    tokenizers = pytest.importorskip("tokenizers")
    files.save(LanguageModel(8, 8, "min-gru", mlp=0), tmp_path)
    tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, unk_token="a")).save(str(tmp_path / "tokenizer.json"))
    code, _ = run(monkeypatch, "utf-8", "generate", tmp_path, "--prompt", b"n\xe9e".decode("utf-8", "surrogateescape"))
    assert code == 2
    assert "prompt is not UTF-8" in capfd.readouterr().err
