"""A CTC head is what enumeration says, its prefix search is exhaustive where it is wide enough, and it streams."""

from itertools import groupby, product

import numpy as np
import pytest
import torch

from recurra.errors import InputError
from recurra.tasks.heads.ctc import CTC
from recurra.tasks.heads.head import Around
from recurra.tasks.prefix_beam import PrefixBeam, searched
from recurra.tasks.translator import Translator
from recurra.testing.tolerances import assert_close


def by_enumeration(head, raw):
    """The chance of every way of saying something in raw [T, classes + 1]."""
    chances, found = raw.softmax(-1), {}
    for path in product(range(head.size), repeat=len(raw)):
        said = tuple(token for token, _ in groupby(path) if token != head.blank)
        chance = torch.stack([chances[t, z] for t, z in enumerate(path)]).prod() if path else torch.ones(()).double()
        found[said] = found.get(said, 0) + chance
    return found


def rows(said):
    """[n, L] int64, filled up with -1."""
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(y, dtype=torch.int64) for y in said], True, -1)


@pytest.mark.parametrize("length", [0, 1, 2, 4])
def test_it_is_what_enumeration_says(length):
    head = CTC(2)
    raw = 2 * torch.randn(length, 3, dtype=torch.float64)
    chances = by_enumeration(head, raw)
    assert_close("sum", sum(chances.values()), torch.ones(()).double())
    target = rows(chances)
    each = torch.exp(-head.surprise(raw.expand(len(chances), -1, -1), target))
    assert_close("chances", each, torch.stack([*chances.values()]))
    assert torch.isinf(head.surprise(raw[None], torch.zeros(1, length + 1, dtype=torch.int64)))
    beam = PrefixBeam(head.blank, width=len(chances))
    for step in raw.log_softmax(-1):
        beam.update(step)
    assert len(beam.found) == len(chances)
    for said, log_p in beam.found:
        assert_close("beam", torch.tensor(log_p, dtype=torch.float64).exp(), chances[said])
    assert tuple(beam.best) == max(chances, key=chances.get)


def test_padded_and_apart_and_too_long():
    head, lengths, said = CTC(3), [5, 2, 0, 3], [[0, 0, 2], [1], [], [1, 1]]
    raw = torch.randn(4, 5, 4, dtype=torch.float64)
    raw[1, 2:] = torch.nan
    around, target = Around(lengths=torch.tensor(lengths)), rows(said)
    together = head.surprise(raw, target, around)
    for n, (length, y) in enumerate(zip(lengths, said, strict=True)):
        alone = head.surprise(raw[n : n + 1, :length], rows([y]))
        assert_close("alone", together[n : n + 1], alone)
        best = head.predict(raw[n : n + 1, :length])[0].tolist()
        row = head.predict(raw, around)[n]
        assert row[row >= 0].tolist() == best
        assert best == [k for k, _ in groupby(raw[n, :length].argmax(-1).tolist()) if k != head.blank]
    assert_close("loss", head.loss(raw, target, None, around), together.sum() / 6)
    weight = torch.tensor([0.0, 2, 1, 1]).double()
    assert_close("weighted", head.loss(raw, target, weight, around), (together * weight).sum() / 4)
    long = rows([[0, 0, 2, 2], [1], [], [1, 1]])  # needs 6 steps, and has 5
    assert_close("too long", head.loss(raw, long, None, around), together[1:].sum() / 3)
    assert head.loss(raw[:1], long[:1], None, Around(lengths=torch.tensor([5]))) == 0


def test_slopes_and_draws():
    head, around = CTC(2), Around(lengths=torch.tensor([4, 2]))
    raw = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    target = rows([[0, 1], [1]])
    assert torch.autograd.gradcheck(lambda r: head.loss(r, target, None, around), (raw,))
    draws = head.sample(raw.detach(), 4000, around)
    assert (draws[:, 1, 2:] < 0).all()
    said = rows([[1]])[0]
    share = ((draws[:, 1, 0] == said) & (draws[:, 1, 1] < 0)).double().mean()
    assert_close("draws", share, torch.exp(-head.surprise(raw, target, around))[1].detach(), slack=0.05)


def spelt(count=300):
    """Each letter becomes none, one or two tokens, in order."""
    table = {"a": [], "b": ["x"], "c": ["y", "x"], "d": ["y"]}
    words = ["".join(np.random.choice(list("abcd"), np.random.randint(2, 7))) + "b" for _ in range(count)]
    return [(word, [token for letter in word for token in table[letter]]) for word in words]


def test_a_translator_with_it_learns_streams_and_comes_back_from_a_file(tmp_path):
    options = {"width": 16, "steps": 150, "batch": 32, "dropout": 0.0, "learning_rate": 1e-2, "bidirectional": False}
    found = Translator("gru", head="ctc", frames=4, **options).fit(spelt())
    new = spelt(30)
    words = [word for word, _ in new]
    assert found.evaluate(new)["wrong"] < 0.2
    for beam in (1, 3):
        assert found.predict(words, beam=beam) == [found.predict([word], beam=beam)[0] for word in words]
    stream = found.stream(beam=3)
    for token in words[0]:
        written = stream.update(token)
    assert written == found.predict(words[:1], beam=3)[0]
    found.save(tmp_path)
    assert Translator.load(tmp_path).predict(words) == found.predict(words)


BAD = {
    "no room": (lambda: Translator(head="ctc", frames=1).fit([("abc", "x"), ("ab", "xx")]), r"pairs\[1\] has 2 tokens"),
    "copy": (lambda: Translator(head="ctc", copy=True).fit([("a", "b")]), "copy is True"),
    "both": (lambda: Translator("gru", head="ctc", width=4, steps=1).fit(spelt(9)).stream(), "bidirectional=False"),
    "decoder": (lambda: Translator("gru", width=4, steps=1).fit(spelt(9)).stream(), "head='ctc'"),
    "penalty": (
        lambda: Translator("gru", head="ctc", frames=4, width=4, steps=1).fit(spelt(9)).predict(["a"], coverage=1.0),
        "length_penalty",
    ),
    "classes": (lambda: CTC(0), "classes is 0"),
    "width": (lambda: searched(torch.zeros(1, 3), 2, 0), "width is 0"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case):
    make, message = BAD[case]
    with pytest.raises(InputError, match=message):
        make()
