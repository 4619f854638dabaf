"""Bits per byte of a text: the mean over all of it, however it is cut."""

import math
import os

import pytest
import torch

from recurra.errors import InputError
from recurra.models.language_model import LanguageModel
from recurra.training.evaluate import bits_per_byte


def test_bits_per_byte_is_the_mean_over_every_byte_but_the_first():
    torch.manual_seed(0)
    model, text = LanguageModel(width=8, pattern="mamba").double().eval(), os.urandom(1500)
    with torch.no_grad():
        logits, _ = model(torch.tensor([list(text)])[:, :-1])
    expected = torch.nn.functional.cross_entropy(logits[0], torch.tensor(list(text[1:]))) / math.log(2)
    seen = []
    found = bits_per_byte(model, text, pieces=1, progress=lambda done, total: seen.append((done, total)))
    assert found == pytest.approx(float(expected), rel=1e-10)
    assert seen[-1] == (1499, 1499)


def test_pieces_count_each_byte_once():
    """A model that looks at the byte before only does not care how the text is cut."""
    torch.manual_seed(0)
    text, model = os.urandom(5000), LanguageModel(width=8, pattern="rnn")
    for weight in (*model.blocks[0].recurrence.parameters(), model.blocks[0].mlp_out.weight):
        torch.nn.init.zeros_(weight)
    assert bits_per_byte(model, text, pieces=4) == pytest.approx(bits_per_byte(model, text, pieces=1), rel=1e-6)
    assert model.training


def test_pieces_do_not_start_cold():
    model, text = LanguageModel(width=8, pattern="mamba"), os.urandom(5000)
    assert bits_per_byte(model, text, pieces=4) == pytest.approx(bits_per_byte(model, text, pieces=1), rel=1e-4)


@pytest.mark.parametrize("text", [b"", b"a"])
def test_a_text_too_short_to_evaluate_on(text):
    with pytest.raises(InputError, match="at least 2"):
        bits_per_byte(LanguageModel(width=8), text)
