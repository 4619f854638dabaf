"""Bits per byte of models whose tokens are not bytes."""

import math

import pytest
import torch

from recurra.errors import InputError
from recurra.models.language_model import LanguageModel
from recurra.models.origin import Origin
from recurra.training.evaluate import bits_per_byte

tokenizers = pytest.importorskip("tokenizers")


@pytest.fixture(scope="module")
def model():
    """A model whose tokens are of one to a few bytes, and may begin and end inside a character."""
    bytes_of = tokenizers.pre_tokenizers.ByteLevel
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = bytes_of(add_prefix_space=False, use_regex=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=bytes_of.alphabet(), show_progress=False, max_token_length=4
    )
    made.train_from_iterator(["Der Bär 😀 isst Käse 😁😀, das 日本 und 日记 liest er  nicht."] * 3, trainer)
    made.post_processor = tokenizers.processors.ByteLevel(trim_offsets=True)
    torch.manual_seed(0)
    net = LanguageModel(made.get_vocab_size(), 8, "rnn").double().eval()
    net.origin = Origin(files={"tokenizer.json": made.to_str()})
    return net


TEXTS = {
    "letters": "Der Bär 😀",
    "a character of several tokens": "😂 ist 😀",
    "several of them": "ÖÖ, 日语",
    "a space": " Käse",
    "spaces": "   日 x",
}


@pytest.mark.parametrize("case", TEXTS)
@pytest.mark.parametrize("repeated", [1, 400])
def test_bytes_are_those_of_the_tokens_scored(model, case, repeated):
    text = TEXTS[case] * repeated
    found = model.tokenizer.encode(text)
    # In the alphabet of these tokens every letter stands for one byte.
    sizes, whole = [len(token) for token in found.tokens], text.encode()
    assert sum(sizes) == len(whole)
    first = next(i for i in range(1, len(sizes)) if is_text(whole[: sum(sizes[:i])]))
    assert case != "a character of several tokens" or first > 1
    ids = torch.tensor(found.ids)
    losses = torch.nn.functional.cross_entropy(model(ids[None, :-1])[0][0], ids[1:], reduction="none")
    expected = losses[first - 1 :].sum().item() / math.log(2) / sum(sizes[first:])
    assert bits_per_byte(model, whole, pieces=1) == pytest.approx(expected, rel=1e-12)
    assert bits_per_byte(model, whole) == pytest.approx(expected, rel=1e-6)


def is_text(data):
    try:
        return data.decode() is not None
    except UnicodeDecodeError:
        return False


@pytest.mark.parametrize("text", ["", "D", "😂"])
def test_nothing_is_left_to_score(model, text):
    with pytest.raises(InputError, match="at least 2 tokens, and more than the first character"):
        bits_per_byte(model, text.encode())
