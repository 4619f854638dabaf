"""Vectors of words in files."""

import pytest
import torch

from recurra.data.vectors import read_vectors
from recurra.errors import InputError


@pytest.mark.parametrize("first", ["", "3 2\n"])
def test_words_are_found_by_name(tmp_path, first):
    path = tmp_path / "words.txt"
    path.write_text(f"{first}dog 1 -2.5\nfür 3e-1 0\n7 4 5\n", encoding="utf-8")
    vectors, there = read_vectors(path, ["für", "cat", "7", "dog"])
    torch.testing.assert_close(vectors, torch.tensor([[0.3, 0], [0, 0], [4, 5], [1, -2.5]]))
    assert there.tolist() == [True, False, True, True]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("dog 1 2\ncat 3\n", "line 2 has 1 numbers; expected 2 behind a word"),
        ("dog 1 x\n", "line 1: could not convert string to float: 'x'"),
        ("3 2\n", "holds no vector"),
        ("dog\n", "line 1 has 0 numbers; expected some"),
    ],
)
def test_bad_files(tmp_path, content, said):
    path = tmp_path / "words.txt"
    path.write_text(content)
    with pytest.raises(InputError, match=said):
        read_vectors(path, ["dog"])
    with pytest.raises(InputError, match="cannot be read"):
        read_vectors(tmp_path / "none", ["dog"])
