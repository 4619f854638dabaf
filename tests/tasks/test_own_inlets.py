"""Parts of one's own in front of a backbone, and the time between steps, as options of estimators."""

import numpy as np
import pytest
import torch
from torch import nn

import recurra
from recurra.data.frames import from_frame
from recurra.data.sequences import Field, Sequences
from recurra.data.vocabulary import Vocabulary
from recurra.errors import InputError
from recurra.models.backbone import Backbone
from recurra.recurrences.gru import GRU
from recurra.tasks.chain import Chain
from recurra.testing.tolerances import assert_close

SMALL = {"pattern": "gru", "width": 8, "steps": 3}


def series(regular=True):
    """A series of numbers at times as far apart as chance has it, or a day."""
    steps = np.ones(60) if regular else np.random.exponential(size=60) + 0.01
    seconds = (86400 * np.cumsum(steps)).astype(int)
    ds = np.datetime64("2024-01-01T00:00:00") + seconds * np.timedelta64(1, "s")
    return {"ds": ds, "y": np.random.randn(60), "rain": np.random.rand(60)}


def part(data, rows):
    return {name: column[rows] for name, column in data.items()}


def cases(count=6):
    """Sequences of unequal lengths with times and a label each."""
    lengths = np.random.randint(4, 12, count)
    names = [np.repeat(np.arange(count), lengths).astype(str), np.random.rand(lengths.sum()).cumsum() * 7]
    table = {"unique_id": names[0], "ds": names[1], "x": np.random.randn(lengths.sum())}
    table |= {"z": np.random.randn(lengths.sum()), "y": np.repeat(np.arange(count) % 2, lengths).astype(float)}
    return from_frame(table, static=["y"], categories=["y"])


def tagged():
    found = cases()
    values = {name: value for name, value in found.values.items() if name != "y"} | {
        "tag": torch.randint(3, (found.steps,))
    }
    fields = [f for f in found.fields.values() if f.name != "y"]
    fields.append(Field("tag", "category", "target", vocabulary=Vocabulary(["A", "B", "C"])))
    return Sequences(fields, values, found.offsets)


def convolution():
    return Chain(GRU(2), nn.Linear(2, 5), nn.Tanh())


PARTS = {
    "a module": lambda: nn.Sequential(nn.Linear(2, 6), nn.Tanh()),
    "a part with a state": convolution,
    "a function": lambda: lambda x: np.sin(x.numpy()),
    "a function in torch": lambda: lambda x: torch.cat([x, x.square()], -1),
}


@pytest.mark.parametrize("kind", PARTS)
def test_a_forecaster_reads_by_a_part_of_ones_own(kind, tmp_path):
    """Updates, rows of a stream, series read whole and files agree; the part that was given has not changed."""
    data, own = series(), PARTS[kind]()
    before = {n: t.clone() for n, t in own.state_dict().items()} if isinstance(own, nn.Module) else {}
    model = recurra.Forecaster(horizon=2, inlet=own, **SMALL).fit(part(data, slice(0, 50)))
    for name, value in before.items():
        assert torch.equal(own.state_dict()[name], value)
    stream, late = model.stream(), part(data, slice(50, 60))
    told = [stream.update({name: late[name][n] for name in late}) for n in range(10)]
    table = model.update(late)
    assert_close("expected", torch.stack([e for e, _ in told])[:, 0], torch.as_tensor(table["expected"]).float())
    assert_close("surprise", torch.stack([s for _, s in told])[:, 0], torch.as_tensor(table["surprise"]).float())
    whole = model.predict(data)
    assert_close("predict", torch.as_tensor(whole["y"]).float(), torch.as_tensor(model.predict()["y"]).float())
    model.save(tmp_path)
    again = recurra.Forecaster.load(tmp_path, inlet=PARTS[kind]())
    assert np.array_equal(again.predict(data)["y"], whole["y"])
    for given, told in ((None, "config.json was fitted .* load\\(folder, inlet="), (3, "^inlet is 3; expected")):
        with pytest.raises(InputError, match=told):
            recurra.Forecaster.load(tmp_path, inlet=given)
    model.set_params(inlet=None).fit(data).save(tmp_path)
    with pytest.raises(InputError, match="was fitted without one"):
        recurra.Forecaster.load(tmp_path, inlet=own)


def test_what_a_part_says_reaches_the_answer():
    """A frozen function is the only way to what decides here: whether the product of both channels is positive."""
    X = np.random.randn(60, 2, 5)
    X[:, 1] = np.sign(X[:, 0]) * np.abs(X[:, 1]) * np.where(np.arange(60) % 2, 1, -1)[:, None]
    y = np.arange(60) % 2
    settings = {"pattern": "min-gru", "width": 8, "steps": 60, "dropout": 0.0, "scale": "none"}
    model = recurra.Classifier(inlet=lambda x: x.prod(-1, keepdim=True).sign(), **settings).fit(X[:40], y[:40])
    assert model.score(X[40:], y[40:]) == 1.0


def test_what_is_frozen_stays_as_it_is_and_the_rest_learns():
    frozen = nn.Sequential(nn.Linear(2, 4), nn.Dropout(0.9)).requires_grad_(False)
    X, y = np.random.randn(8, 2, 6), np.arange(8) % 2
    for own, moves in ((frozen, False), (nn.Sequential(nn.Linear(2, 4)), True)):
        model = recurra.Classifier(inlet=own, **SMALL).fit(X, y).model_
        assert torch.equal(model.inlet.own.part[0].weight, own[0].weight) != moves
        assert model.train().inlet.own.part[0].training == moves


def test_pictures_are_read_in_their_shape():
    """The part sees the shape of the only column of numbers; missing ones are zeros."""
    seen = []

    def look(x):
        seen.append(x)
        return x.flatten(2).sum(-1, keepdim=True)

    found = cases()
    fields = [Field("clip", "number", "past", width=(2, 3)), found.fields["y"]]
    clips = torch.randn(found.steps, 2, 3, dtype=torch.float64)
    clips[0] = torch.nan
    sequences = Sequences(fields, {"clip": clips, "y": found.values["y"]}, found.offsets)
    recurra.Classifier(inlet=look, **SMALL).fit(sequences)
    assert all(x.shape[2:] == (2, 3) and x.isfinite().all() for x in seen)


@pytest.mark.parametrize("inlet", [None, nn.Linear(2, 3)], ids=["gaps", "gaps and a part"])
@pytest.mark.parametrize("kind", [recurra.Classifier, recurra.Regressor, recurra.Tagger])
def test_gaps_of_whole_sequences(kind, inlet, tmp_path):
    """The clock decides: other times, other answers; in other units the same. Streams, batches and files agree."""
    sequences = tagged() if kind is recurra.Tagger else cases()
    if kind is recurra.Regressor:
        values = sequences.values | {"y": torch.randn(len(sequences), dtype=torch.float64)}
        fields = [*(f for f in sequences.fields.values() if f.name != "y"), Field("y", "number", "target", whole=True)]
        sequences = Sequences(fields, values, sequences.offsets)
    model = kind(gap=True, inlet=inlet, bidirectional=False, **SMALL).fit(sequences)
    raw = whole(model, sequences)
    other = Sequences(
        sequences.fields.values(), sequences.values | {"ds": sequences.values["ds"].square()}, sequences.offsets
    )
    assert not torch.allclose(raw, whole(model, other), 1e-4, 1e-4)
    double = Sequences(
        sequences.fields.values(), sequences.values | {"ds": 8 * sequences.values["ds"]}, sequences.offsets
    )
    assert_close("units", raw, whole(kind(**model.get_params()).fit(double), double))
    assert_close("alone", raw[: len(whole(model, sequences.select([0])))], whole(model, sequences.select([0])))
    first, stream = sequences.select([0]), model.stream()
    rows = [{name: float(first.values[name][n]) for name in ("ds", "x", "z")} for n in range(first.steps)]
    told = [stream.update(row) for row in rows]
    if kind is recurra.Tagger:
        assert stream.tags == model.predict(first)[0]
    else:
        answer = model.predict_proba(first) if kind is recurra.Classifier else model.predict(first)
        assert_close("stream", torch.as_tensor(np.ravel(told[-1])).float(), torch.as_tensor(np.ravel(answer)).float())
    with pytest.raises(InputError, match="expected a time after"):
        stream.update(rows[-1])
    model.save(tmp_path)
    assert torch.equal(
        whole(kind.load(tmp_path, **({} if inlet is None else {"inlet": nn.Linear(2, 3)})), sequences), raw
    )


@torch.no_grad()
def whole(model, sequences):
    """Raw numbers of each sequence, or of each step."""
    if not isinstance(model, recurra.Tagger):
        return model._said(model._read(sequences))
    read = model._read(sequences)
    parts = [
        {n: read.select([k]).take(n, torch.arange(int(read.lengths[k]))[None]) for n in model.model_.inlet.reads}
        for k in range(len(read))
    ]
    return torch.cat([model.model_(columns)[0][0] for columns in parts])


@pytest.mark.parametrize("kind", [recurra.Forecaster, recurra.Detector])
def test_series_whose_steps_are_irregular(kind, tmp_path):
    """Refused without gaps; with them rows in one table, in several and one by one say the same."""
    data = series(regular=False)
    with pytest.raises(InputError, match=r"one frequency\. Rows that come at any time are read with gap=True"):
        kind(**SMALL).fit(data)
    settings = {"rate": 0.2} if kind is recurra.Detector else {"horizon": 3}
    model = kind(gap=True, **settings, **SMALL).fit(part(data, slice(0, 50)))
    model.save(tmp_path)
    ways = [kind.load(tmp_path) for _ in range(3)]
    late = part(data, slice(50, 60))
    at_once, stream = ways[0].update(late), ways[1].stream()
    told = torch.stack([torch.cat(stream.update({name: late[name][n] for name in late})) for n in range(10)])
    for at, name in enumerate(("expected", "surprise")):
        two = np.concatenate(
            [ways[2].update(part(late, rows))[name] for rows in (slice(0, 4), slice(4, 10))] if not at else [told[:, 1]]
        )
        assert_close(name, torch.as_tensor(two).float(), torch.as_tensor(at_once[name]).float())
        assert_close(name, told[:, at], torch.as_tensor(at_once[name]).float())
    if kind is recurra.Forecaster:
        one, two = (torch.as_tensor(each["y"]).float() for each in (ways[0].predict(), model.predict(data)))
        assert_close("whole", one, two)
        assert len(model.predict(horizon=5)["y"]) == 5
        assert model.evaluate(data, windows=4)["origins"] == 4


def test_forecasts_at_times_that_are_asked_about():
    """Those of `known`, whose gaps and columns count; with the median between them they are those without it."""
    data = series(regular=False)
    model = recurra.Forecaster(gap=True, horizon=3, known=["rain"], **SMALL).fit(part(data, slice(0, 50)))
    later = part(data, slice(50, 55))
    found = model.predict(known={"ds": later["ds"], "rain": later["rain"]})
    assert (found["ds"] == later["ds"][:3]).all()
    moved = later["ds"] + np.arange(5) * np.timedelta64(9, "D")
    other = model.predict(known={"ds": moved, "rain": later["rain"]})
    assert found["y"][0] == other["y"][0]
    assert (found["y"][1:] != other["y"][1:]).any()
    with pytest.raises(InputError, match=r"known has 2 rows of series 'series' after .*; expected 3"):
        model.predict(known=part({"ds": data["ds"], "rain": data["rain"]}, slice(40, 52)))
    plain = recurra.Forecaster(gap=True, horizon=3, **SMALL).fit(part(data, slice(0, 50)))
    usual = plain.predict()
    assert np.allclose(usual["y"], plain.predict(known={"ds": usual["ds"]})["y"], 1e-3, 1e-4)


def test_updates_are_as_exact_as_their_times():
    """Minutes of this century, whose seconds float32 does not tell apart."""
    ds = np.datetime64("2024-03-01T00:00") + np.arange(40)
    data = {"ds": ds, "y": np.random.randn(40)}
    model = recurra.Forecaster(horizon=2, **SMALL).fit(part(data, slice(0, 30)))
    for n in range(30, 40):
        assert len(model.update(part(data, slice(n, n + 1)))["y"]) == 1
    assert np.allclose(model.predict()["y"], model.predict(data)["y"], 1e-4, 1e-4)


WRONG = {
    "no part": (lambda: {"inlet": 3}, "inlet is 3; expected a module"),
    "other numbers": (lambda: {"inlet": nn.Linear(5, 2)}, "inlet, a Linear, cannot read"),
    "steps mixed": (lambda: {"inlet": lambda x: x.cumsum(1)}, "depends on others"),
    "the future": (
        lambda: {"inlet": Chain(nn.Linear(2, 16), Backbone(16, "gru", bidirectional=True))},
        "depends on later ones",
    ),
    "steps joined": (lambda: {"inlet": lambda x: x.mean(1)}, "expected \\[2, 3, ...\\]"),
    "grows": (lambda: {"inlet": recurra.layer("attention", 2, heads=1)}, "whose state grows"),
    "no flag": (lambda: {"gap": 2}, "gap is 2"),
    "no times": (lambda: {"gap": True}, "no column of times"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_read_is_named(name):
    own, told = WRONG[name]
    with pytest.raises(InputError, match=told):
        recurra.Classifier(**own(), **SMALL).fit(np.random.randn(4, 2, 5), [0, 1, 0, 1])
    with pytest.raises(InputError, match="no column of numbers"):
        recurra.Tagger(inlet=np.sin, **SMALL).fit([["a", "b"]], [["A", "B"]])
