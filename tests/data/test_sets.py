"""Data sets hold what their sources say, and naive forecasts on them score what is published.

Those that do not come with Recurra are slow tests, and passed over where they were not fetched: `recurra data NAME`.
"""

import hashlib
import itertools
import json
import zipfile
from collections import Counter
from dataclasses import replace

import pytest
import torch

from recurra.data import sets
from recurra.data.archives import Package
from recurra.data.sequences import Sequences
from recurra.data.words import Pairs
from recurra.errors import InputError
from recurra.metrics.floors import floors

COUNTS = {
    "us_births/D": (1, 7305), "us_births/W": (1, 1043), "us_births/M": (1, 240), "m1_yearly": (181, 4515),
    "elecdemand": (1, 17520), "beijing": (1, 43824), "air": (1, 144),
    "stocks": (20, 166260),
    "JapaneseVowels": (640, 9961), "ACSF1": (200, 292000), "ArrowHead": (211, 52961), "GunPoint": (200, 30000),
    "ItalyPowerDemand": (1096, 26304), "OSULeaf": (442, 188734), **{f"watch/{n}": (140, 244102) for n in range(5)},
    "turkish": (4851, 81370), "brown": (57340, 1161192), "cmudict": (135166, None), "movielens": (943, 100000),
}  # fmt: skip
"""(sequences, time steps) of each, counted in its source."""


def loaded(name):
    if not sets.get(name).here:
        pytest.skip(f"{name} was not fetched")
    return sets.load(name)


def column(series, name="y"):
    return [series.values[name][a:b] for a, b in zip(series.offsets, series.offsets[1:], strict=False)]


def named(names):
    """Parameters, those of sets to be fetched marked as slow."""
    return [pytest.param(*name, marks=() if sets.get(name[0]).package is None else pytest.mark.slow) for name in names]


@pytest.mark.parametrize("name", named((name,) for name in sets.SETS))
def test_counts_and_splits(name):
    split = loaded(name)
    parts = [split.train, split.validation, split.test]
    if isinstance(split.test, Pairs):
        assert sum(map(len, parts)) == COUNTS[name][0]
        words = [
            {
                tuple(s.source.values["token"][a:b].tolist())
                for a, b in zip(s.source.offsets, s.source.offsets[1:], strict=False)
            }
            for s in parts
        ]
        assert not words[0] & words[2] | words[0] & words[1] | words[1] & words[2]
        assert 0.09 < len(words[2]) / sum(map(len, words)) < 0.11
    elif split.horizon:
        assert (len(split.test), split.test.steps) == COUNTS[name]
        new = split.horizon * split.windows
        for before, after in itertools.pairwise(parts):
            assert (after.lengths - before.lengths).eq(new).all()
            assert before.lengths.min() > 0
    else:
        assert (sum(map(len, parts)), sum(part.steps for part in parts)) == COUNTS[name]
        assert parts[0].fields == parts[1].fields == parts[2].fields


PUBLISHED = {
    ("us_births/D", "naive"): (1266.88, 1.8648),
    ("us_births/W", "naive"): (1720.32, 1.5634),
    ("us_births/M", "naive"): (13253.96, 1.4995),
    ("us_births/M", "seasonal naive"): (6704.75, 0.7605),
    ("m1_yearly", "naive"): (None, 4.894322),
}
"""(MAE, MASE) in GIFT-Eval, whose scaled errors are cut off behind four digits, and in Chronos' benchmark."""


@pytest.mark.parametrize(("name", "floor"), named(PUBLISHED))
def test_floors_are_those_published(name, floor):
    split = loaded(name)
    mae, mase = PUBLISHED[name, floor]
    found = floors(column(split.test), split.horizon, split.windows, split.season)[floor]
    assert mae is None or round(found["mae"], 2) == mae
    digits = len(str(mase).partition(".")[2])
    assert int(found["mase"] * 10**digits) == round(mase * 10**digits)


@pytest.mark.parametrize(("name", "tag", "published"), named([("turkish", "xpos", 84.7), ("brown", "pos", 90.15)]))
def test_the_most_frequent_tag_of_each_word(name, tag, published):
    split = loaded(name)

    def pairs(part):
        rows = torch.arange(part.steps)
        letters = part.take("letters", rows).tolist()
        return list(
            zip(map(tuple, ([c for c in word if c >= 0] for word in letters)), part.values[tag].tolist(), strict=True)
        )

    often = {}
    known = pairs(split.train) + pairs(split.validation)
    for word, label in known:
        often.setdefault(word, Counter())[label] += 1
    usual = Counter(label for _, label in known).most_common(1)[0][0]
    test = pairs(split.test)
    right = sum((often[word].most_common(1)[0][0] if word in often else usual) == label for word, label in test)
    assert abs(100 * right / len(test) - published) < 0.05


def test_a_set_that_is_not_here(monkeypatch, tmp_path):
    monkeypatch.setenv("RECURRA_CACHE_DIR", str(tmp_path))
    with pytest.raises(InputError, match=r"fetch it \(50.1 MB, GPL-3.0\) with: recurra data elecdemand"):
        sets.load("elecdemand")
    with pytest.raises(InputError, match="data set is 'births'; expected one of us_births/D"):
        sets.load("births")


def package(tmp_path, monkeypatch):
    """A package as a registry gives it, and what says where to have it from."""
    monkeypatch.setenv("RECURRA_CACHE_DIR", str(tmp_path / "cache"))
    archive = tmp_path / "made-1.0-py3-none-any.whl"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("made/data.txt", "1 2 3")
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    return archive, Package("pypi", "made", "1.0", archive.name, digest, 0.1, "free")


def test_fetching(tmp_path, monkeypatch):
    archive, made = package(tmp_path, monkeypatch)
    copy = lambda self, into: ["cp", str(archive), str(into)]  # noqa: E731
    monkeypatch.setattr(Package, "command", copy)
    with pytest.raises(InputError, match="is not on this machine"):
        made.open()
    made.fetch()
    assert made.open().text("made/data.txt") == "1 2 3"
    made.path.write_bytes(b"half")
    with pytest.raises(InputError, match="is damaged; delete it"):
        made.open()
    made.fetch()
    assert made.open().names() == ["made/data.txt"]
    with pytest.raises(InputError, match=r"has another made 1\.0"):
        replace(made, sha256="0" * 64, file=made.file).fetch()
    monkeypatch.setattr(Package, "command", lambda self, into: ["false"])
    made.path.unlink()
    with pytest.raises(InputError, match=r"made 1\.0 cannot be fetched by `false`"):
        made.fetch()
    assert not made.path.exists()


def test_sequences_are_joined():
    split = loaded("us_births/D")
    both = split.train.join(split.test)
    assert both.lengths.tolist() == [6105, 7305]
    assert torch.equal(both.select([1]).values["y"], split.test.values["y"])
    with pytest.raises(InputError, match="expected the fields of"):
        split.train.join(Sequences([], {}, torch.tensor([0])))
    json.dumps([field.as_dict() for field in both.fields.values()])
