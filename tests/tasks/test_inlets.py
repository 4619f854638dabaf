"""Chains and what stands in front of backbones: cut, padded and apart as layers are; held to their formulas by hand."""

import math

import pytest
import torch
from torch import nn

import recurra
from recurra.errors import InputError
from recurra.models.backbone import Backbone
from recurra.tasks.chain import Chain, at_end
from recurra.tasks.inlets.interleaved import Interleaved
from recurra.tasks.inlets.letters import LetterConvolutions
from recurra.tasks.inlets.nested import EachStep, Nested
from recurra.tasks.inlets.pair import Pair, compared
from recurra.tasks.inlets.patches import Patches, Segments
from recurra.tasks.inlets.refined import Refined
from recurra.tasks.inlets.speech import Mfcc
from recurra.tasks.inlets.trend import Trend
from recurra.tasks.pools import Attention, Max, Mean
from recurra.testing.tolerances import assert_close

WIDTH = 8


def backbone(pattern="gru", **options):
    return Backbone(WIDTH, pattern, mlp=0, **options)


def columns(batch, time):
    """Of each what is wished, seen and done."""
    return {"wish": torch.randn(batch, time, 1).double(), "seen": torch.randn(batch, time, 3).double()}


def numbers(batch, time):
    return torch.randn(batch, time, 3, dtype=torch.float64)


def pictures(batch, time):
    return torch.randn(batch, time, 1, 5, 5, dtype=torch.float64)


def sentences(batch, time):
    """[B, T, S, 3] with NaN behind the ends, some of them empty."""
    x = torch.randn(batch, time, 4, 3, dtype=torch.float64)
    return torch.where((torch.arange(4) < torch.randint(5, (batch, time, 1)))[..., None], x, torch.nan)


CHAINS = {
    "layers and modules": (numbers, lambda: Chain(nn.Linear(3, WIDTH), backbone("gru+mamba"), nn.Tanh(), Mean(WIDTH))),
    "trend": (numbers, lambda: Chain(Trend(3, 4), nn.Linear(6, WIDTH), backbone("slstm"))),
    "patches": (numbers, lambda: Chain(Patches(3), nn.Linear(9, WIDTH), backbone())),
    "frames": (numbers, lambda: Chain(Patches(4, every=2), nn.Linear(12, WIDTH), backbone(), Max(WIDTH))),
    "pyramid": (
        numbers,
        lambda: Chain(nn.Linear(3, WIDTH), backbone(), Patches(2, how="max"), backbone(), Patches(2, how="mean")),
    ),
    "pictures": (
        pictures,
        lambda: Chain(EachStep(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten())), nn.Linear(18, WIDTH), backbone()),
    ),
    "sentences": (sentences, lambda: Chain(Nested(Chain(nn.Linear(3, WIDTH), Attention(WIDTH))), backbone())),
    "interleaved": (
        columns,
        lambda: Chain(Interleaved({"wish": nn.Linear(1, WIDTH), "seen": nn.Linear(3, WIDTH)}), backbone()),
    ),
}


def part(x, *where):
    return {name: value[where] for name, value in x.items()} if isinstance(x, dict) else x[where]


@pytest.mark.parametrize("name", CHAINS)
@torch.no_grad()
def test_a_chain_cut_anywhere_or_padded_is_the_whole(name):
    given, make = CHAINS[name]
    model, x = make().double().eval(), given(2, 9)
    whole, _ = model(x)
    for cuts in ([0, 9], [4, 5], [1] * 9, [2, 3, 4]):
        state, told, at = model.initial_state(2), [], 0
        for steps in cuts:
            y, state = model(part(x, slice(None), slice(at, at + steps)), state)
            told.append(y)
            at += steps
        assert_close(f"cut in {cuts}", torch.cat(told, 1), whole)
    short, _ = model(part(x, slice(1, 2), slice(0, 7)))
    spoilt = x if isinstance(x, dict) else x.clone()
    if isinstance(x, torch.Tensor):
        spoilt[1, 7:] = torch.inf
    padded, _ = model(spoilt, lengths=torch.tensor([9, 7]))
    assert_close("padded", padded[1, : short.shape[1]], short[0])
    assert not padded[1, short.shape[1] :].any()
    assert_close("the other", padded[:1], model(part(x, slice(0, 1)))[0])


@pytest.mark.parametrize("name", ["layers and modules", "trend", "pictures", "sentences", "interleaved"])
@torch.no_grad()
def test_packed_in_one_row(name):
    given, make = CHAINS[name]
    model, x = make().double().eval(), given(2, 6)
    resets = torch.zeros(2, 6, dtype=torch.bool)
    resets[:, 4] = True
    apart, _ = model(part(x, slice(None), slice(4, 6)))
    assert_close("packed", model(x, resets=resets)[0][:, -apart.shape[1] :], apart)


def test_gradients_reach_the_first_part_and_no_padding():
    model = CHAINS["pictures"][1]().double()
    x = pictures(2, 5)
    x[1, 3:] = torch.nan
    y, _ = model(x, lengths=torch.tensor([5, 3]))
    y.square().sum().backward()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in model[0].parameters())


def test_patches_are_what_unfold_gives_and_their_size_may_change():
    x = torch.randn(2, 11, 3)
    y, state = Patches(4, every=3)(x)
    expected = torch.stack([x[:, a : a + 4].flatten(1) for a in (0, 3, 6)], 1)
    assert torch.equal(y, expected)
    assert state["waiting"].shape[1] == 2
    pooled = Patches(2, how="max")
    assert torch.equal(pooled(x)[0][:, 1], x[:, 2:4].amax(1))
    for size in (5, 1):
        pooled.size = pooled.every = size
        assert pooled(x)[0].shape == (2, 11 // size, 3)


@pytest.mark.parametrize("how", ["max", "mean"])
def test_segments_of_each_sequence(how):
    x, lengths = torch.randn(3, 10, 2), torch.tensor([10, 6, 0])
    y, _ = Segments(3, how)(x, lengths=lengths)
    reduce = (lambda t: t.amax(0)) if how == "max" else (lambda t: t.mean(0))
    assert_close("six steps in three", y[1], torch.stack([reduce(x[1, a : a + 2]) for a in (0, 2, 4)]))
    assert_close("ten steps", y[0, 0], reduce(x[0, :4]))
    assert not y[2].any()


def test_three_levels_are_what_each_gives_apart():
    inner = Chain(nn.Embedding(7, WIDTH), backbone(bidirectional=True), Mean(WIDTH))
    dialogue = Nested(Chain(Nested(inner), backbone(), Max(WIDTH)))
    words = torch.randint(7, (2, 3, 4, 5))
    words[0, 1, 2, 3:], words[0, 1, 3], words[1, 2] = -1, -1, -1
    found = dialogue(words)
    sentences = [inner(words[0, 1, s, :n][None])[0][:, -1] for s, n in ((0, 5), (1, 5), (2, 3))]
    upper = dialogue.inner
    expected = upper[2](upper[1](torch.stack(sentences, 1))[0])[0][0, -1]
    assert_close("a dialogue of three sentences", found[0, 1], expected)
    assert not found[1, 2].any()
    assert dialogue(torch.full((1, 2, 3, 4), -1)).shape == (1, 2, WIDTH)


def test_pairs_are_read_by_one_encoder():
    encoder = Chain(nn.Linear(3, WIDTH), backbone(), Max(WIDTH))
    a, b = torch.randn(2, 5, 3), torch.randn(2, 7, 3)
    lengths = torch.tensor([3, 5])
    found = Pair(encoder)(a, b, lengths)
    u, v = encoder(a[:1, :3])[0][:, -1], encoder(b)[0][:1, -1]
    assert_close("pair", found[:1], compared(u, v))
    assert found.shape == (2, 4 * WIDTH)


def test_each_reading_begins_where_the_one_before_ended():
    refined = Refined(lambda width: recurra.layer("lstm", width, hidden=4), 3, 2, bidirectional=True).double()
    x, lengths = torch.randn(2, 6, 3, dtype=torch.float64), torch.tensor([6, 4])
    y, _ = refined(x, lengths=lengths)
    first, state = refined.ahead[0](x[1:, :4])
    assert_close("the first", y[1:, :4, :4], first)
    assert_close("the second", y[1:, :4, 4:8], refined.ahead[1](x[1:, :4], state)[0])
    _, state = refined.back[0](x[1:, :4].flip(1))
    assert_close("backwards", y[1:, :4, 12:], refined.back[1](x[1:, :4].flip(1), state)[0].flip(1))
    assert y.shape[-1] == refined.output_width == 16


def test_letters_behind_the_end_change_nothing():
    made = LetterConvolutions(5, 4, filters=3, reaches=(1, 3)).double()
    word = torch.tensor([1, 4, 0])
    alone = made(word)
    padded = made(nn.functional.pad(word, [0, 6], value=-1))
    assert_close("padded", padded, alone)
    filters = made.convolutions[1]
    letters = nn.functional.pad(made.embedding(word + 1), [0, 0, 0, 2]).T
    by_hand = torch.stack([(filters.weight * letters[:, t : t + 3]).sum([1, 2]) + filters.bias for t in range(3)])
    kept = []
    handle = made.highway.register_forward_hook(lambda _, given, __: kept.append(given[0]))
    made(word)
    handle.remove()
    assert_close("the filters of three letters", kept[0].reshape(-1)[3:], by_hand.tanh().amax(0))
    assert made(torch.full((2, 3, 0), -1)).shape == made(torch.full((2, 3, 2), -1)).shape == (2, 3, 4)


def test_cepstra_by_hand():
    rate, size = 8000, 64
    made, frame = Mfcc(rate, size, filters=8, coefficients=5).double(), torch.randn(size, dtype=torch.float64)
    window = [0.5 - 0.5 * math.cos(2 * math.pi * n / size) for n in range(size)]
    energy = [0.0] * 8
    edges = [700 * (10 ** (k * 2595 * math.log10(1 + 4000 / 700) / 9 / 2595) - 1) for k in range(10)]
    for f in range(size // 2 + 1):
        turns = [
            complex(math.cos(-2 * math.pi * f * n / size), math.sin(-2 * math.pi * f * n / size)) for n in range(size)
        ]
        power = abs(sum(float(x) * w * turn for x, w, turn in zip(frame, window, turns, strict=True))) ** 2 / size
        hertz = f * rate / size
        for k in range(8):
            low, middle, high = edges[k : k + 3]
            energy[k] += power * max(0.0, min((hertz - low) / (middle - low), (high - hertz) / (high - middle)))
    for c in range(5):
        scale = math.sqrt((1 if c == 0 else 2) / 8)
        expected = scale * sum(math.log(e) * math.cos(math.pi * c * (k + 0.5) / 8) for k, e in enumerate(energy))
        assert float(made(frame)[c]) == pytest.approx(expected, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: Patches(3, every=4), "every is 4"),
        (lambda: Patches(2, how="sum"), "how is 'sum'"),
        (lambda: Patches(2)(torch.zeros(1, 4, 2), resets=torch.zeros(1, 4, dtype=torch.bool)), "resets was given"),
        (lambda: Patches(2)(torch.zeros(1, 4, 2), Patches(2).initial_state(1), lengths=torch.tensor([3])), "state and"),
        (lambda: Segments(2)(torch.zeros(1, 4, 2), Segments(2).initial_state(1)), "state or resets"),
        (lambda: Interleaved({}), "columns is empty"),
        (lambda: Interleaved({"a": nn.Identity()})({"b": torch.zeros(1, 1, 1)}), "x has no column 'a'"),
        (lambda: Mfcc(8000, 4)(torch.zeros(2, 5)), r"frames are \[2, 5\]; expected \[..., 4\]"),
        (lambda: Mfcc(8000, 4, filters=3, coefficients=4), "coefficients is 4"),
        (lambda: Chain(nn.Tanh())(torch.zeros(1, 2, 3), {"0.h": torch.zeros(1, 3)}), "state holds '0.h'"),
        (lambda: Chain(Mean(3))(torch.zeros(1, 2, 3), lengths=torch.tensor([3])), r"lengths\[0\] is 3"),
    ],
)
def test_bad_input(call, said):
    with pytest.raises(InputError, match=said):
        call()


def test_at_the_end():
    y = torch.randn(2, 3, 4)
    assert torch.equal(at_end(y, torch.tensor([2, 0])), torch.stack([y[0, 1], torch.zeros(4)]))
    assert at_end(y[:, :0], None).shape == (2, 4)
