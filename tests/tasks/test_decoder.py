"""What a decoder may have besides its tokens: copies, a guide for its looks, its own words to read, language models."""

from itertools import pairwise, product

import numpy as np
import pytest
import torch

from recurra.errors import InputError
from recurra.models.backbone import Backbone
from recurra.models.language_model import LanguageModel
from recurra.state import State
from recurra.tasks.beam import beam
from recurra.tasks.feeding import feed, turns
from recurra.tasks.fusion import fused
from recurra.tasks.teaching import Teaching, astray
from recurra.tasks.translation import Translation
from recurra.tasks.translator import Translator
from recurra.testing.tolerances import assert_close

SOURCES, TARGETS = 5, 3
SETTINGS = {"width": 20, "batch": 32, "dropout": 0.0, "learning_rate": 1e-2}


def translation(**options):
    model = Translation(SOURCES, TARGETS, Backbone(8, "gru", bidirectional=True), Backbone(8, "gru"), **options)
    return model.double().eval()


def batch(model):
    source, said = torch.randint(SOURCES, (2, 6)), torch.randint(TARGETS, (2, 4))
    said[:, 0] = model.begin
    return source, torch.tensor([6, 4]), said


def test_what_is_copied_and_what_is_said_sum_to_one():
    copies = torch.tensor([2, -1, 0, 0, -1, -1])
    model = translation(copies=copies)
    source, lengths, said = batch(model)
    source[1, 4:] = -1
    memory = model.encode(source, lengths)
    raw, _, looked = model.decode(said, memory)
    assert_close("sum", raw.exp().sum(-1), torch.ones(2, 4).double())
    assert torch.autograd.gradcheck(
        lambda g: model.decode(said, spoken(memory, g))[0], (memory.gist.detach().requires_grad_(),)
    )
    model.to_copy.bias.data.fill_(50)  # all that can be copied is
    copied = model.decode(said, memory)[0].exp()
    for b, t, k in product(range(2), range(4), range(TARGETS)):
        own = looked[b, t][: lengths[b]][copies[source[b, : lengths[b]]] == k].sum()
        mass = looked[b, t][: lengths[b]][copies[source[b, : lengths[b]]] >= 0].sum()
        assert copied[b, t, k] >= own - 1e-12
        assert_close("with what is said", copied[b, t, k] - own, ((1 - mass) * plain(model, said, memory)[b, t, k]))


def plain(model, said, memory):
    """Without copies."""
    kept, model.to_copy = model.to_copy, None
    found = model.decode(said, memory)[0].softmax(-1)
    model.to_copy = kept
    return found


def spoken(memory, gist):
    return type(memory)(memory.source, memory.y.detach(), memory.there, gist)


def test_looks_along_the_diagonal_cost_nothing_and_padding_does_not_count():
    eye = torch.eye(5)[None].double()
    five, two = torch.tensor([5]), torch.tensor([2])
    assert astray(eye, five, five) == 0
    assert 0.5 < astray(eye.flip(2), five, five) < 1
    spoilt = torch.cat([eye[:, :2], torch.ones(1, 3, 5)], 1)
    assert_close("padded", astray(spoilt, five, two), astray(eye[:, :2], five, two))


def test_what_it_reads_in_turns():
    assert list(turns(feed("truth"), 5)) == [(0, 5, False)]
    assert list(turns(feed("own"), 5)) == [(0, 1, False), (1, 5, True)]
    assert list(turns(feed((2, 1)), 5)) == [(0, 2, False), (2, 3, True), (3, 5, False)]
    assert list(turns(feed((1, 3)), 1)) == [(0, 1, False)]
    for how, steps in product(["truth", "own", (2, 3), (1, 1)], (0, 1, 7)):
        spans = list(turns(feed(how), steps))
        assert sum(last - first for first, last, _ in spans) == steps
        assert all(a[1] == b[0] for a, b in pairwise(spans))


@pytest.mark.parametrize("how", ["truth", (2, 1), "own"])
def test_a_model_that_is_right_learns_the_same_from_its_own_words(how):
    """Fed with its own words as the truth, the loss is that of the truth, and its slope too."""
    model = translation()
    source, lengths, _ = batch(model)
    memory, said, state = model.encode(source, lengths), [torch.full((2, 1), model.begin)], None
    for _ in range(5):
        raw, state, _ = model.decode(said[-1], memory, state)
        said.append(raw[..., :TARGETS].argmax(-1))
    model.to_token.bias.data[TARGETS] = -99  # it never ends of itself, so that what it says is its target
    target = torch.cat(said[1:], 1)
    found, expected = (Teaching(feed=feed(way)).loss(model, source, lengths, target) for way in (how, "truth"))
    assert_close("loss", found, expected)
    slopes = [torch.autograd.grad(loss, model.to_token.weight, retain_graph=True)[0] for loss in (found, expected)]
    assert_close("slope", *slopes)


def test_fused_beams_are_exhaustive_and_alone():
    torch.manual_seed(0)
    prior, tokens, end = LanguageModel(5, 6, "gru").double().eval(), 4, 3

    table = torch.randn(2, tokens).double().log_softmax(-1)

    def step(last, state, which):  # noqa: ARG001
        return table[which], state, None

    state = State(nothing=torch.zeros(2, 1))
    way, start = fused(step, state, [(prior, 0.7)])
    found = beam(way, start, 4, end, width=tokens**3, longest=3)
    with torch.no_grad():
        for row in range(2):
            scores = {}
            for said in product(range(tokens), repeat=3):
                said = said[: said.index(end) + 1] if end in said else said
                raw = prior(torch.tensor([[4, *said[:-1]]]))[0][0, :, :tokens]
                both = (table[row] + 0.7 * raw.log_softmax(-1)).log_softmax(-1)
                scores[said] = sum(both[t, k] for t, k in enumerate(said))
            best = max(scores, key=scores.get)
            assert_close("score", found.scores[row], scores[best])
            plain = best[:-1] if best[-1] == end else best
            assert tuple(found.tokens[row, : found.lengths[row]].tolist()) == plain


def shouted(count=200):
    """Letters as they are, behind each other: what was seldom seen is copied."""
    words = ["".join(np.random.choice(list("abcdef"), np.random.randint(2, 6))) for _ in range(count)]
    return [(word, list(word)) for word in words]


def test_a_translator_with_all_of_them_learns_and_comes_back(tmp_path):
    helped = {"copy": True, "guide": 1.0, "ctc": 0.3, "frames": 1, "feed": (4, 1)}
    found = Translator("gru", steps=130, **helped, **SETTINGS).fit(shouted())
    new = shouted(30)
    assert found.evaluate(new)["edits"] < 0.2
    words = [word for word, _ in new]
    prior = found.language([target for _, target in shouted()], width=8, steps=20)
    said = found.predict(words, beam=3, fusion=[(prior, 0.1)])
    assert said == [found.predict([word], beam=3, fusion=[(prior, 0.1)])[0] for word in words]
    found.save(tmp_path)
    assert Translator.load(tmp_path).predict(words, fusion=[(prior, 0.1)], beam=3) == said


BAD = {
    "feed": (lambda _: Translator(feed="mine").fit(shouted(3)), "feed is 'mine'"),
    "turns": (lambda _: Translator(feed=(0, 3)).fit(shouted(3)), r"feed\[0\] is 0"),
    "share": (lambda _: Translator(ctc=1.0).fit(shouted(3)), "ctc is 1.0"),
    "guide": (lambda _: Translator(guide=-1).fit(shouted(3)), "guide is -1"),
    "prior": (lambda f: f.predict(["ab"], fusion=[0.3]), "fusion holds 0.3"),
    "of others": (lambda f: f.predict(["ab"], fusion=[(LanguageModel(99, 4, "gru"), 0.3)]), "of 99 tokens"),
    "text": (lambda f: f.language(["ax"]), "no target had"),
}


@pytest.fixture(scope="module")
def fitted():
    return Translator("gru", width=4, steps=1).fit(shouted(20))


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case, fitted):
    make, message = BAD[case]
    with pytest.raises(InputError, match=message):
        make(fitted)
