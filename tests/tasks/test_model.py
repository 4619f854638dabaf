"""What models of tasks promise, over inlets, backbones and pools drawn at random: cut, packed, padded, apart; nothing
of what is missing or later is seen."""

import pytest
import torch

from recurra.data.sequences import Field
from recurra.data.vocabulary import Vocabulary
from recurra.models.backbone import Backbone
from recurra.tasks.calendar import DAY, Calendar
from recurra.tasks.heads.normal import Normal
from recurra.tasks.inlet import Encoding, Inlet, Letters
from recurra.tasks.model import Model
from recurra.tasks.pools import POOLS, pool
from recurra.testing.tolerances import assert_close

NAN = float("nan")
FIELDS = [
    Field("y", "number", "target"),
    Field("more", "number", "past", width=(2,)),
    Field("kind", "category", "past", vocabulary=Vocabulary("abc")),
    Field("word", "text", "past", vocabulary=Vocabulary("xyz")),
    Field("ds", "number", "time", dated=True),
]
PATTERNS = ["gru", "mamba+min-gru", "slstm", "gated-delta-net"]


def drawn(pool_name, pattern, scale="running"):
    width = 8
    inlet = Inlet(FIELDS[:2], FIELDS[2:], width, scale, Calendar(DAY))
    outlook = torch.nn.Linear(width, 2)
    return Model(inlet, Backbone(width, pattern), pool(pool_name, width), outlook, Normal()).double().eval()


def columns(batch, time):
    y = 50 + 9 * torch.randn(batch, time, dtype=torch.float64)
    more = torch.randn(batch, time, 2, dtype=torch.float64)
    more[torch.rand(batch, time, 2) < 0.3] = NAN
    return {
        "y": y,
        "more": more,
        "kind": torch.randint(-1, 4, (batch, time)),
        "word": torch.randint(3, (batch, time, 4)).where(torch.arange(4) < torch.randint(5, (batch, time, 1)), -1),
        "ds": DAY * (4000.5 + torch.arange(time)).expand(batch, time).double(),
    }


def part(given, rows=slice(None), steps=slice(None)):
    return {name: value[rows, steps] for name, value in given.items()}


@pytest.mark.parametrize(("pool_name", "pattern"), list(zip(POOLS, [*PATTERNS, PATTERNS[0]], strict=True)))
@torch.no_grad()
def test_cut_packed_padded_and_apart(pool_name, pattern):
    model, given = drawn(pool_name, pattern), columns(2, 9)
    whole, end = model(given)
    first, state = model(part(given, steps=slice(0, 4)), model.initial_state(2))
    parts = [first]
    for t in range(4, 9):
        one, state = model(part(given, steps=slice(t, t + 1)), state)
        parts.append(one)
    assert_close("step by step", torch.cat(parts, 1), whole)
    assert set(state) == set(end) == set(model.initial_state(2))
    for name in end:
        assert_close(name, state[name], end[name])
    assert_close("a row alone", model(part(given, rows=slice(1, 2)))[0], whole[1:])
    resets = torch.zeros(2, 9, dtype=torch.bool)
    resets[:, 5] = True
    assert_close("packed", model(given, resets=resets)[0][:, 5:], model(part(given, steps=slice(5, 9)))[0])
    spoilt = {n: v.clone() for n, v in given.items()}
    for name, value in spoilt.items():
        value[1, 6:] = -1 if not value.is_floating_point() else NAN if name != "ds" else 0
    padded, stopped = model(spoilt, lengths=torch.tensor([9, 6]))
    assert_close("padded", padded[1, :6], whole[1, :6])
    for name, value in model(part(given, rows=slice(1, 2), steps=slice(0, 6)))[1].items():
        assert_close(name, stopped[name][1:], value)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_nothing_later_is_seen(pattern):
    model, given = drawn("attention", pattern), columns(1, 8)
    other = columns(1, 8)
    mixed = {name: torch.cat([value[:, :5], other[name][:, 5:]], 1) for name, value in given.items()}
    assert_close("before", model(mixed)[0][:, :5], model(given)[0][:, :5])


@pytest.mark.parametrize("scale", ["running", "fit", "none"])
def test_a_missing_number_says_nothing(scale):
    """Whatever else it might have been, what is read is the same, and slopes are numbers."""
    model, given = drawn("mean", "gru", scale), columns(2, 6)
    given["y"][0, 2] = given["y"][1] = NAN
    raw, _ = model(given)
    model.head.loss(raw, given["y"]).backward()
    assert raw.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    if scale == "running":  # what was read before and after is in units of what is there
        scaler = model.inlet.scale
        there = given["y"][0][[0, 1, 3, 4, 5]].view(1, 5, 1).expand(1, 5, 3)
        assert_close("units", scaler(given["y"][:1, :, None].expand(1, 6, 3))[0][:, [0, 1, 3, 4, 5]], scaler(there)[0])


def test_running_scales_make_a_series_the_same_in_any_units():
    model, given = drawn("each", "gru"), columns(2, 7)
    other = dict(given, y=given["y"] * 1e6)
    assert_close("raw", model(other)[0], model(given)[0])


def test_letters_are_read_to_the_end_of_each_word():
    letters = Letters(5, 6)
    words = torch.tensor([[0, 3, 1, 4], [2, -1, -1, -1], [-1, -1, -1, -1]])
    found = letters(words)
    for word, row in zip(words, found, strict=True):
        own = word[word >= 0][None]
        alone = letters(own)[0] if own.numel() else torch.zeros(6)
        assert_close("word", row, alone)
    assert letters(words[:, :0]).shape == (3, 6)
    again = letters(words[[1, 0, 1, 2, 0]].view(5, 1, 4))  # what comes twice is read once
    assert_close("again", again, found[[1, 0, 1, 2, 0]][:, None])
    for place in (0, 3):  # both ends matter
        other = words[:1].clone()
        other[0, place] = 2
        assert (letters(other) - found[:1]).abs().max() > 1e-3


def test_the_calendar_knows_days_and_years():
    days = torch.tensor([0.0, 1.0, 365.0, 366.0, 19723.25]).double() * DAY  # Thursday 1970-01-01 ... 2024-01-01 06:00
    found = Calendar(DAY)(days)
    assert found.shape == (5, 7 + 12)
    assert found[:, 12:].argmax(1).tolist() == [3, 4, 4, 5, 0]
    assert (found[:, 12:].sum(1) == 1).all()
    assert Calendar(3600.0)(days).shape == (5, 12 + 7 + 12)
    assert Calendar(30 * DAY)(days).shape == (5, 12)
    assert not Calendar(DAY)(torch.tensor([NAN]).double()).any()
    named = torch.zeros(73414)
    named[25567 + 365] = 2  # 1971-01-01, days after the first of 1900
    near = Calendar(DAY, named)(days)[:, -6:]
    assert near.nonzero().tolist() == [[2, 3], [3, 1]]  # the day itself; the day after remembers the day before


def test_missing_names_unknown_names_and_what_is_far_out():
    category = Field("b", "category", "static", whole=True, vocabulary=Vocabulary("z"))
    encoding = Encoding([Field("a", "number", "known"), category], 4)
    found = encoding({"a": torch.tensor([1.0, NAN, 1e30]), "b": torch.tensor([-1, 0, 1])}, torch.Size([3]))
    assert found.isfinite().all()
