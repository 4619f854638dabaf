"""The tagger: sentences alone and together, words never seen, steps without tags."""

import numpy as np
import pytest
import torch

from recurra.data.reading import Padded
from recurra.data.sequences import Field, Sequences
from recurra.data.vocabulary import Vocabulary
from recurra.data.words import from_tokens
from recurra.errors import InputError
from recurra.tasks.heads.crf import CRF
from recurra.tasks.tagger import Tagger
from recurra.tasks.tagging import Viterbi

NOUNS, VERBS = ["fox", "dog", "tree", "house"], ["sees", "likes", "finds"]


def sentences(count=20):
    X, y = [], []
    for _ in range(count):
        words = ["the", np.random.choice(NOUNS), np.random.choice(VERBS), "the", np.random.choice(NOUNS)]
        tags = ["D", "N", "V", "D", "N"]
        cut = np.random.randint(2, 6)
        X.append([str(word) for word in words[:cut]])
        y.append(tags[:cut])
    return X, y


def tagger(**options):
    return Tagger(**{"pattern": "min-gru", "width": 10, "steps": 3, "batch": 6} | options)


@pytest.mark.parametrize(("head", "bidirectional"), [("crf", True), ("categorical", False)])
def test_alone_and_together_and_from_files(head, bidirectional, tmp_path):
    X, y = sentences()
    found = tagger(head=head, bidirectional=bidirectional).fit(X, y)
    together = found.predict(X)
    assert [len(tags) for tags in together] == [len(words) for words in X]
    assert [found.predict([words])[0] for words in X] == together
    found.save(tmp_path)
    loaded = Tagger.load(tmp_path)
    assert loaded.predict(X) == together
    assert str(loaded.evaluate(X, y)) == str(found.evaluate(X, y))


def test_it_learns_and_reads_letters_of_words_it_has_never_seen():
    X, y = sentences(60)
    found = tagger(steps=80, width=16).fit(X, y)
    new = [["the", "foxy", "sees", "the", "dog"], ["the", "dog", "likes", "the", "zzz"]]
    report = found.evaluate(new, [["D", "N", "V", "D", "N"], ["D", "N", "V", None, "N"]])
    assert report["accuracy"] > 0.7
    assert report["unknown"]["steps"] == 2
    assert report["steps"] == 9
    assert report["floors"]["most frequent"]["accuracy"] <= 1
    assert "accuracy" in str(report)


def test_dropped_words_are_read_as_unknown():
    X, y = sentences()
    found = tagger().fit(X, y)
    data = from_tokens(X, {"tag": y})
    (word,) = (field for field in data.fields.values() if field.name == "word")
    batch = next(iter(Padded(data, len(X))))
    words = batch.columns["word"]
    known = int(((words >= 0) & (words < word.vocabulary.unknown)).sum())
    for share, least, most in ((0.0, 0, 0), (0.5, 1, known - 1), (1.0, known, known)):
        read = found.set_params(word_dropout=share)._blanked(batch, word).columns
        changed = read["word"] != words
        assert (read["word"][changed] == word.vocabulary.unknown).all()
        assert least <= changed.sum() <= most
        assert (read["word"][words < 0] == words[words < 0]).all()
        assert all((read[name] == column).all() for name, column in batch.columns.items() if name != "word")


def test_a_tag_that_is_missing_says_nothing():
    X, y = sentences()
    lost = [[None, *tags[1:]] for tags in y]
    found = tagger(head="categorical", steps=2).fit(X, lost)
    assert all(tag in ("N", "V", "D") for tags in found.predict(X) for tag in tags)


def test_steps_of_numbers_have_tags_too():
    target = Field("tag", "category", "target", vocabulary=Vocabulary(["low", "high"]))
    x = torch.randn(30, 2, dtype=torch.float64)
    sequences = Sequences(
        [Field("x", "number", "past", width=(2,)), target],
        {"x": x, "tag": (x[:, 0] > 0).long()},
        torch.tensor([0, 7, 8, 30]),
    )
    found = tagger(steps=60).fit(sequences)
    assert found.evaluate(sequences)["accuracy"] > 0.7
    assert [len(tags) for tags in found.predict(sequences)] == [7, 1, 22]


@pytest.mark.parametrize("head", ["crf", "categorical"])
def test_step_by_step_it_says_what_it_says_of_the_whole(head):
    X, y = sentences()
    found = tagger(head=head, bidirectional=False, steps=20).fit(X, y)
    for words in X[:5]:
        stream = found.stream()
        for n, word in enumerate(words, 1):
            now = stream.update(word)
            assert stream.tags == found.predict([words[:n]])[0]
            assert now == stream.tags[-1]
    with pytest.raises(InputError, match="step holds 3; expected words"):
        stream.update(3)
    assert len(stream.tags) == len(words)


@pytest.mark.parametrize("classes", [1, 2, 5])
def test_viterbi_goes_on_and_settles_what_nothing_can_change(classes):
    head, steps = CRF(classes).double(), 60
    for weight in head.parameters():
        torch.nn.init.normal_(weight)
    raw, online = 2 * torch.randn(1, steps, classes, dtype=torch.float64), Viterbi(head)
    assert online.now() == []
    longest = 0
    for t in range(steps):
        online.update(raw[0, t].detach())
        assert online.now() == head.predict(raw[:, : t + 1])[0].tolist()
        longest = max(longest, len(online._back))
    assert longest < steps - 10


def test_steps_of_numbers_stream_too():
    target = Field("tag", "category", "target", vocabulary=Vocabulary(["low", "high"]))
    x = torch.randn(30, 2, dtype=torch.float64)
    values = {"x": x, "tag": (x[:, 0] > 0).long()}
    sequences = Sequences([Field("x", "number", "past", width=(2,)), target], values, torch.tensor([0, 30]))
    found = tagger(steps=3, bidirectional=False).fit(sequences)
    stream = found.stream()
    for row in x:
        stream.update({"x": row})
    assert stream.tags == found.predict(sequences)[0]
    for row, message in [({"x": 1.0}, "expected 2 numbers"), ({"z": 1.0}, "no 'x'"), ("a", "no 'x'")]:
        with pytest.raises(InputError, match=message):
            stream.update(row)
    assert len(stream.tags) == 30


BAD = {
    "both ways": (lambda X, y: tagger(steps=1).fit(X, y).stream(), "bidirectional=False"),
    "tags": (lambda X, y: tagger().fit(X), "y is missing"),
    "fewer": (lambda X, y: tagger().fit(X, y[1:]), "19 lists of tags; expected 20"),
    "no word": (lambda X, y: tagger(steps=1).fit(X, y).predict([["a", None]]), "sentence 0 holds None"),
    "in a sentence": (lambda X, y: tagger().fit(X, [y[0][1:], *y[1:]]), "sentence 0"),
    "empty": (lambda X, y: tagger(steps=1).fit(X, y).predict([[]]), "sentence 0"),
    "head": (lambda X, y: tagger(head="hmm").fit(X, y), "head is 'hmm'"),
    "words": (lambda X, y: tagger(word_dropout=1.5).fit(X, y), "word_dropout is 1.5"),
    "unfitted": (lambda X, y: tagger().predict(X), "not been fitted"),
    "new tag": (lambda X, y: tagger(steps=1).fit(X, y).evaluate(X, [["Q"] * len(t) for t in y]), "never seen"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case):
    make, message = BAD[case]
    with pytest.raises(InputError, match=message):
        make(*sentences())
