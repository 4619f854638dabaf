"""One encoder that several decoders read: each learns what it would not have learned alone."""

import pytest
import torch
from torch import nn
from toys import right, surprise, trained

from recurra.models.backbone import Backbone
from recurra.tasks.chain import Chain, at_end
from recurra.tasks.inlets.nested import EachStep, Nested
from recurra.tasks.pools import Each

pytestmark = pytest.mark.slow
WIDTH = 24


def squares(batch, time=12):
    """A square bounces in a row of eight, fast or slow: pictures [B, T, 8], how fast."""
    fast, at = torch.randint(2, (batch,)), 7 * torch.rand(batch, 1)
    way = at + (0.4 + 0.8 * fast[:, None]) * torch.arange(time)
    place = (way % 14 - 7).abs()
    return torch.exp(-((torch.arange(8) - place[..., None]) ** 2)), fast


class Decoder(nn.Module):
    """Says T steps of what one code is of."""

    def __init__(self):
        super().__init__()
        self.place, self.blocks, self.out = nn.Embedding(6, WIDTH), Backbone(WIDTH, "lstm", mlp=0), nn.Linear(WIDTH, 8)

    def forward(self, code):
        return self.out(self.blocks(code[:, None] + self.place.weight)[0])


def test_what_was_and_what_will_be_from_one_code_teach_a_classifier():
    scores = {}
    for taught in (True, False):
        torch.manual_seed(0)
        encoder = Chain(EachStep(nn.Linear(8, WIDTH)), Backbone(WIDTH, "lstm", mlp=0))
        was, will_be = Decoder(), Decoder()

        def loss(encoder=encoder, was=was, will_be=will_be):
            x, _ = squares(32)
            code = at_end(encoder(x[:, :6])[0], None)
            return (was(code) - x[:, :6].flip(1)).square().mean() + (will_be(code) - x[:, 6:]).square().mean()

        if taught:
            trained(nn.ModuleList([encoder, was, will_be]), loss, 250)
        few, fast = squares(12)
        judge = nn.Linear(WIDTH, 2)

        def classify(encoder=encoder, judge=judge, few=few, fast=fast):
            return surprise(judge(at_end(encoder(few[:, :6])[0], None)), fast)

        trained(nn.ModuleList([encoder, judge]), classify, 60)
        x, fast = squares(400)
        scores[taught] = right(judge(at_end(encoder(x[:, :6])[0], None)), fast)
    assert scores[True] > scores[False]
    assert scores[True] > 0.8


END, BEGIN = 10, 11
"""Letters are 0 to 9: a stem of three of the first six, and an ending, 6 to 9, that says which word it is."""


def inflected(batch, time=4):
    """Words [B, T, 4] by their letters, their tags, and their lemmas: the stem, changed where the ending is 8 or 9."""
    stem, ending = torch.randint(6, (batch, time, 3)), torch.randint(4, (batch, time))
    lemma = torch.where((ending[..., None] >= 2) & (torch.arange(3) == 2), (stem + 1) % 6, stem)
    return torch.cat([stem, 6 + ending[..., None]], -1), ending, lemma


def test_tags_and_lemmas_letter_by_letter():
    """A tagger, and a decoder of letters that reads each word as the tagger has read it, learn together."""
    word = Chain(nn.Embedding(10, WIDTH), Backbone(WIDTH, "gru", bidirectional=True), Each(WIDTH))
    sentence = Chain(Nested(word), Backbone(WIDTH, "gru", mlp=0, bidirectional=True))
    to_tag, said, decoder, to_letter = (
        nn.Linear(WIDTH, 4), nn.Embedding(12, WIDTH), Backbone(WIDTH, "gru"), nn.Linear(WIDTH, 11)
    )  # fmt: skip
    whole = nn.ModuleList([sentence, to_tag, said, decoder, to_letter])

    def told(words, lemma):
        """Scores of tags and of the letters of each word's lemma, each by those before."""
        read = sentence(words)[0]
        flat, letters = read.flatten(0, 1), lemma.flatten(0, 1)
        before = torch.cat([torch.full((len(letters), 1), BEGIN), letters], 1)
        return to_tag(read), to_letter(decoder(said(before) + flat[:, None])[0])

    def loss():
        words, tags, lemma = inflected(32)
        tag, letters = told(words, lemma)
        ends = torch.full((letters.shape[0], 1), END)
        return surprise(tag, tags) + surprise(letters, torch.cat([lemma.flatten(0, 1), ends], 1))

    trained(whole, loss, 400)
    words, tags, lemma = inflected(100)
    assert right(told(words, lemma)[0], tags) > 0.95
    written = torch.zeros_like(lemma)
    for k in range(3):  # each letter by those that it has written itself
        written[..., k] = told(words, written)[1].unflatten(0, lemma.shape[:2])[:, :, k, :10].argmax(-1)
    exact = float((written == lemma).all(-1).double().mean())
    copied = float((words[..., :3] == lemma).all(-1).double().mean())
    assert exact > copied + 0.2
