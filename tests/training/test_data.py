"""Text, windows over it, and what others make of it."""

import gzip
import lzma
import math
import os
from collections import Counter

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from recurra.data.baselines import baselines, trigram
from recurra.data.text import Windows, default_text, read, split
from recurra.errors import InputError


def test_the_built_in_text_is_the_language_reference():
    text = default_text()
    assert 300_000 < len(text) < 1_000_000
    assert b'The "for" statement' in text
    assert default_text() == text


@given(st.binary(max_size=200))
def test_the_last_tenth_is_held_out(data):
    training, held_out = split(data)
    assert training + held_out == data
    assert len(held_out) == len(data) // 10


def test_a_folder_is_its_text_files_in_order(tmp_path):
    for name, content in {"b.txt": b"two", "a/z.md": b"one", ".git/x": b"hidden", "c.bin": b"\0binary"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    (tmp_path / "dangling").symlink_to("nowhere")
    assert read(tmp_path) == b"one\ntwo"
    assert read(tmp_path / "c.bin") == b"\0binary"


def test_data_that_is_not_there(tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/binary").write_bytes(b"\0")
    for name, words in (("none", "does not exist"), ("empty", "is empty"), ("folder", "holds no text file")):
        with pytest.raises(InputError, match=words):
            read(tmp_path / name)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("in_folder", [False, True])
def test_data_that_may_not_be_read(tmp_path, in_folder):
    file = tmp_path / "folder/secret"
    file.parent.mkdir()
    file.write_text("x")
    file.chmod(0)
    with pytest.raises(InputError, match="cannot be read"):
        read(file.parent if in_folder else file)


@settings(max_examples=60)
@given(size=st.integers(0, 400), batch=st.integers(1, 5), length=st.integers(1, 20), number=st.integers(0, 200))
def test_windows(size, batch, length, number):
    data = bytes(i * 7 % 251 for i in range(size))
    if size < batch * (2 * length + 1):
        with pytest.raises(InputError, match="use a smaller batch or window"):
            Windows(data, batch, length)
        return
    windows = Windows(data, batch, length)
    window = windows.window(number)
    assert window.shape == (batch, length + 1)
    assert window.dtype == torch.int64
    assert torch.equal(window, Windows(data, batch, length).window(number))
    assert windows.starts(number) == (number % windows.per_pass == 0)
    for row, tokens in enumerate(window):
        stream = data[row * (size // batch) : (row + 1) * (size // batch)]
        assert bytes(tokens.tolist()) in stream
    if not windows.starts(number + 1):
        assert torch.equal(window[:, -1], windows.window(number + 1)[:, 0])


@pytest.mark.parametrize(("batch", "length"), [(0, 4), (4, 0), (-1, 4)])
def test_windows_of_nothing(batch, length):
    with pytest.raises(InputError, match="expected a positive int"):
        Windows(b"abc" * 99, batch, length)


def test_another_pass_falls_on_other_bytes():
    windows = Windows(bytes(range(250)) * 8, batch=3, length=10)
    assert not torch.equal(windows.window(0), windows.window(windows.per_pass))


def test_compressors_see_the_held_out_text_alone():
    training, held_out = b"abc" * 500, os.urandom(300) + b"abc" * 100
    found = baselines(training, held_out)
    assert found["gzip"] == 8 * len(gzip.compress(held_out, 9)) / len(held_out)
    assert found["xz"] == pytest.approx(8 * len(lzma.compress(held_out)) / len(held_out), rel=0.05)
    assert set(found) == {"gzip", "xz", "trigram"}
    with pytest.raises(InputError, match="held_out"):
        baselines(training, b"")


@settings(max_examples=10)
@given(training=st.binary(max_size=30), start=st.integers(0, 255))
def test_a_trigram_model_gives_odds_that_sum_to_one(training, start):
    known = trigram(training, bytes([start]))
    total = sum(2 ** -(2 * trigram(training, bytes([start, c])) - known) for c in range(256))
    assert total == pytest.approx(1)


@settings(max_examples=30)
@given(training=st.text("ab", min_size=1, max_size=60), held_out=st.text("abc", min_size=1, max_size=20))
def test_the_trigram_model_counts_as_one_would_by_hand(training, held_out):
    assume(len(training) >= 3)
    bits = 0.0
    for i in range(len(held_out)):
        before, odds = training + held_out[:i], 1 / 256
        for order in range(3):
            context = before[len(before) - order :]
            after = Counter(
                training[j + order] for j in range(len(training) - order) if training[j : j + order] == context
            )
            if after:
                odds = (after[held_out[i]] + len(after) * odds) / (after.total() + len(after))
        bits -= math.log2(odds)
    assert trigram(training.encode(), held_out.encode()) == pytest.approx(bits / len(held_out))
