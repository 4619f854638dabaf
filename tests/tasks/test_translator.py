"""Beam search is the exhaustive one where it is wide enough; translations alone and together; what is learned."""

from itertools import product

import numpy as np
import pytest
import torch

from recurra.errors import InputError
from recurra.models.backbone import Backbone
from recurra.state import State
from recurra.tasks.beam import beam
from recurra.tasks.translation import Translation
from recurra.tasks.translator import Translator
from recurra.testing.tolerances import assert_close

V, END = 3, 2


class Chances:
    """A model whose next token depends on all before it: a table of random numbers for each beginning."""

    def __init__(self, batch, depth):
        self.table = torch.randn(batch, V**depth, V, dtype=torch.float64).log_softmax(-1)
        self.looks = torch.rand(batch, V**depth, 4).double()

    def step(self, last, state, which):
        place = torch.where(state["step"] == 0, 0, state["place"] * V + last + 1) % self.table.shape[1]
        return self.table[which, place], State(place=place, step=state["step"] + 1), self.looks[which, place]

    def start(self, batch):
        return State(place=torch.zeros(batch, dtype=torch.int64), step=torch.zeros(batch, dtype=torch.int64))


def every_way(model, row, longest, length_penalty, coverage):
    """The best of all sequences, written out."""
    found = {}
    for tokens in product(range(V), repeat=longest):
        tokens = tokens[: tokens.index(END) + 1] if END in tokens else tokens
        state, last, total, seen = model.start(1), torch.tensor([V]), 0.0, torch.zeros(4).double()
        for token in tokens:
            log_p, state, looked = model.step(last, state, torch.tensor([row]))
            total, seen, last = total + log_p[0, token], seen + looked[0], torch.tensor([token])
        penalised = total / ((5 + len(tokens)) / 6) ** length_penalty
        found[tokens] = float(penalised + coverage * seen.clamp(max=1).log().sum())
    return max(found.items(), key=lambda pair: pair[1])


@pytest.mark.parametrize(("length_penalty", "coverage"), [(0.0, 0.0), (1.5, 0.0), (0.7, 0.4)])
def test_a_beam_as_wide_as_the_tree_is_exhaustive(length_penalty, coverage):
    model, longest = Chances(2, 5), 4
    found = beam(model.step, model.start(2), V, END, width=V**longest, longest=longest,
                 length_penalty=length_penalty, coverage=coverage)  # fmt: skip
    for row in range(2):
        tokens, score = every_way(model, row, longest, length_penalty, coverage)
        plain = tokens[:-1] if tokens[-1] == END else tokens
        assert tuple(found.tokens[row, : found.lengths[row]].tolist()) == plain
        assert_close("score", found.scores[row], torch.tensor(score, dtype=torch.float64))


@pytest.mark.parametrize("width", [1, 3])
def test_each_sequence_is_searched_as_if_alone(width):
    model = Chances(5, 5)
    together = beam(model.step, model.start(5), V, END, width=width, longest=6)
    for row in range(5):

        def step(last, state, which, row=row):
            return model.step(last, state, which + row)

        alone = beam(step, model.start(1), V, END, width=width, longest=6)
        length = int(alone.lengths)
        assert length == int(together.lengths[row])
        assert alone.tokens[0, :length].tolist() == together.tokens[row, :length].tolist()
        assert_close("score", alone.scores[0], together.scores[row])


def test_a_wider_beam_finds_no_worse():
    model = Chances(6, 5)
    found = [beam(model.step, model.start(6), V, END, width=w, longest=5).scores for w in (1, V**5)]
    assert (found[1] >= found[0] - 1e-5).all()


@pytest.mark.parametrize("pattern", ["gru", "mamba"])
def test_padded_and_alone_and_token_by_token(pattern):
    model = Translation(5, 4, Backbone(8, pattern, bidirectional=True), Backbone(8, pattern)).double().eval()
    source, said = torch.randint(5, (2, 6)), torch.randint(4, (2, 5))
    said[:, 0] = model.begin
    lengths, shorter = torch.tensor([6, 3]), torch.tensor([5, 2])
    spoilt = source.clone()
    spoilt[1, 3:] = -1
    raw = model(spoilt, lengths, said, shorter)
    assert_close("alone", model(source[1:, :3], lengths[1:], said[1:, :2]), raw[1:, :2])
    memory, state = model.encode(source[:1], lengths[:1]), model.decoder.initial_state(1)
    for t in range(5):
        one, state, looked = model.decode(said[:1, t : t + 1], memory, state)
        assert_close(f"token {t}", one[:, 0], raw[:1, t])
        assert_close("look", looked.sum(-1), torch.ones(1, 1).double())


def pairs(count=300):
    """Digits to letters, the other way round."""
    found = []
    for _ in range(count):
        word = "".join(np.random.choice(list("0123"), np.random.randint(1, 6)))
        found.append((word, [chr(ord("a") + int(c)) for c in reversed(word)]))
    return found


def test_it_learns_and_comes_back_from_a_file(tmp_path):
    found = Translator("gru", width=24, steps=240, batch=32, dropout=0.0, learning_rate=8e-3).fit(pairs())
    new = pairs(40)
    report = found.evaluate(new)
    assert report["wrong"] < 0.5
    assert report["edits"] <= report["wrong"]
    said = found.predict([source for source, _ in new], beam=3)
    assert said == [found.predict([source], beam=3)[0] for source, _ in new]
    found.save(tmp_path)
    assert Translator.load(tmp_path).predict([source for source, _ in new], beam=3) == said


BAD = {
    "pair": (lambda: Translator().fit([("a", "b", "c")]), r"pairs\[0\]"),
    "empty": (lambda: Translator().fit([("a", "")]), "target"),
    "nothing": (lambda: Translator().fit([]), "empty"),
    "beam": (lambda: Translator("gru", width=4, steps=1).fit(pairs(5)).predict(["0"], beam=0), "beam is 0"),
    "source": (lambda: Translator("gru", width=4, steps=1).fit(pairs(5)).predict([""]), "source"),
    "unfitted": (lambda: Translator().predict(["a"]), "not been fitted"),
    "penalty": (lambda: beam(None, State(a=torch.zeros(1)), 0, 1, length_penalty=-1), "length_penalty is -1"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case):
    make, message = BAD[case]
    with pytest.raises(InputError, match=message):
        make()


def test_a_source_never_seen_is_read_as_unknown():
    found = Translator("gru", width=6, steps=2).fit(pairs(9))
    assert isinstance(found.predict(["98"])[0], list)
