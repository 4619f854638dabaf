"""Series in patches, in trend and rest; sounds; columns one after the other; prices and what is earned by them."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from toys import right, surprise, trained

import recurra
from recurra.metrics.trading import by_rule, eigen_portfolios, maximum_sharpe, minimum_risk, returns, trade
from recurra.models.backbone import Backbone
from recurra.tasks.chain import Chain
from recurra.tasks.inlets.interleaved import Interleaved
from recurra.tasks.inlets.patches import Patches
from recurra.tasks.inlets.speech import Mfcc
from recurra.tasks.inlets.trend import Trend
from recurra.tasks.pools import Mean

pytestmark = pytest.mark.slow
WIDTH = 16


def waves(batch, time, noise=0.05):
    """Waves of any period from 8 to 24, on a slope: [B, time, 1]."""
    t, period, phase = torch.arange(time), 8 + 16 * torch.rand(batch, 1), 2 * math.pi * torch.rand(batch, 1)
    x = (2 * math.pi * t / period + phase).sin() + 0.01 * torch.randn(batch, 1) * t
    return (x + noise * torch.randn(batch, time))[..., None]


def linear_baseline(read, ahead):
    """The best linear map of the last `read` steps to the next `ahead`, [read + 1, ahead]."""
    x = waves(3000, read + ahead)[..., 0]
    past = torch.cat([x[:, :read], torch.ones(3000, 1)], 1)
    return torch.linalg.lstsq(past, x[:, read:]).solution


def test_trend_and_rest_forecast_96_steps_beside_a_linear_map():
    read, ahead = 60, 96
    blocks = Backbone(WIDTH, "slstm+mlstm", mlp=0, layers={"slstm": {"heads": 4}, "mlstm": {"heads": 4}})
    model = Chain(Trend(1, 24), nn.Linear(2, WIDTH), blocks, nn.Linear(WIDTH, ahead))

    def loss():
        x = waves(32, read + ahead)
        return (model(x[:, :read])[0][:, -1] - (x[:, read:, 0] - x[:, read - 1])).abs().mean()

    trained(model, loss, 250, 2e-2)
    x = waves(300, read + ahead)
    forecast = model(x[:, :read])[0][:, -1] + x[:, read - 1]
    error = float((forecast - x[:, read:, 0]).abs().mean().detach())
    flat = torch.cat([x[:, :read, 0], torch.ones(300, 1)], 1) @ linear_baseline(read, ahead)
    linear = float((flat - x[:, read:, 0]).abs().mean())
    last = float((x[:, read - 1] - x[:, read:, 0]).abs().mean())
    assert error < last
    assert error < 1.2 * linear


def test_series_of_patches_say_the_next_patch():
    model = Chain(Patches(8), nn.Linear(8, WIDTH), Backbone(WIDTH, "gru"), nn.Linear(WIDTH, 8))

    def loss():
        x = waves(32, 96)
        return (model(x)[0][:, :-1] - Patches(8)(x)[0][:, 1:]).square().mean()

    trained(model, loss, 150)
    x = waves(200, 96)
    patches = Patches(8)(x)[0]
    error = (model(x)[0][:, 5:-1] - patches[:, 6:]).square().mean().detach()
    assert float(error) < 0.3 * float((patches[:, 5:-1, -1:] - patches[:, 6:]).square().mean())


def test_sounds_are_told_by_tone_and_length():
    rate = 2000

    def sounds(batch):
        tone, long = torch.randint(2, (batch,)), torch.randint(2, (batch,))
        t, ends = torch.arange(800), 350 + 350 * long[:, None]
        hertz = (300 + 300 * tone[:, None]) * (1 + 0.05 * torch.randn(batch, 1))
        x = (2 * math.pi * hertz * t / rate).sin() * (t < ends) + 0.1 * torch.randn(batch, 800)
        return x[..., None], 2 * tone + long

    frames = [Patches(100, every=50), Mfcc(rate, 100, filters=12, coefficients=8)]
    model = Chain(*frames, nn.Linear(8, WIDTH), Backbone(WIDTH, "lstm", mlp=0), nn.Linear(WIDTH, 4))

    def loss():
        x, kind = sounds(32)
        return surprise(model(x)[0][:, -1], kind)

    trained(model, loss, 120)
    x, kind = sounds(300)
    assert right(model(x)[0][:, -1], kind) > 0.95


def play(batch, time=10):
    """Actions by chance; an action is good if it is that observed one step before: wish is what is still to be won."""
    seen, done = torch.randint(4, (batch, time)), torch.randint(4, (batch, time))
    good = (done == torch.cat([seen[:, :1], seen[:, :-1]], 1)).float()
    return {"wish": good[..., None], "seen": seen, "done": done}


@pytest.mark.parametrize("pattern", ["mlstm", "mamba", "attention"])
def test_wishes_observations_and_actions_in_one_sequence(pattern):
    said = {"wish": nn.Linear(1, WIDTH), "seen": nn.Embedding(4, WIDTH), "done": nn.Embedding(4, WIDTH)}
    model = Chain(Interleaved(said), Backbone(WIDTH, pattern + "*2"), nn.Linear(WIDTH, 4))

    def loss():
        x = play(32)
        return surprise(model(x)[0][:, 1::3], x["done"])

    trained(model, loss, 200)
    state, won, last, batch = model.initial_state(50), 0.0, None, 50
    for step in range(10):  # it acts by itself, and wishes to win
        seen = torch.randint(4, (batch, 1))
        x = {"wish": torch.ones(batch, 1, 1), "seen": seen, "done": torch.zeros(batch, 1, dtype=torch.int64)}
        with torch.no_grad():
            action = model(x, state)[0][:, 1].argmax(-1)
            _, state = model(x | {"done": action[:, None]}, state)
        won += float((action == (seen if last is None else last)[:, 0]).double().mean()) if step else 0.0
        last = seen
    assert won / 9 > 0.7  # by chance a quarter
    if pattern != "attention":  # what a step costs does not depend on how many lie behind
        assert sum(t.numel() for t in state.values()) == sum(t.numel() for t in model.initial_state(batch).values())


def prices(days=420, shares=4, seed=0):
    """Shares whose returns have momentum, so that there is something to forecast; [days, shares]."""
    dice = np.random.default_rng(seed)
    moved = np.zeros((days, shares))
    for t in range(1, days):
        moved[t] = 0.6 * moved[t - 1] + 0.01 * dice.standard_normal(shares)
    return torch.from_numpy(100 * np.exp(np.cumsum(moved, 0)))


def forecast_returns(of, split, pattern="lstm", **settings):
    """What a forecaster of returns, trained on the days before `split`, expects of each day after, one day before."""
    earned = returns(of)
    names = [f"share {n}" for n in range(earned.shape[1])]

    def table(part):
        return {
            "unique_id": np.repeat(names, part.shape[0]),
            "ds": np.tile(np.arange(float(part.shape[0])), len(names)),
            "y": 100 * part.T.flatten().numpy(),
        }

    settings = {"width": WIDTH, "steps": 150, "scale": "fit", "head": "normal"} | settings
    found = recurra.Forecaster(pattern, **settings).fit(table(earned[:split]))
    later = table(earned[split:])
    later["ds"] = later["ds"] + split
    told = found.update(later)
    return earned[split:], torch.from_numpy(np.asarray(told["expected"])).reshape(len(names), -1).T.double() / 100


@pytest.mark.parametrize("pattern", ["lstm", "gru", "attention"])
def test_a_forecast_that_is_traded_earns_more_than_holding_and_is_told_by_sector(pattern):
    earned, expected = forecast_returns(prices(), 300, pattern)
    report = trade(earned, by_rule(expected, short=True) / 4, groups={"first": [0, 1], "second": [2, 3]})
    assert report["strategy"]["sharpe"] > report["hold"]["sharpe"] + 1
    assert report["won"] > 0.55
    assert set(report["groups"]) == {"first", "second"}
    momentum = by_rule(earned.roll(1, 0), short=True) / 4
    both = trade(earned, (momentum + by_rule(expected, short=True) / 4) / 2)  # strategies that are combined
    assert both["strategy"]["risk"] <= max(report["strategy"]["risk"], trade(earned, momentum)["strategy"]["risk"])


def test_portfolios_of_what_is_forecast_beside_what_came_by_sector():
    """Of each sector's shares by themselves: what portfolios were to return and to risk, and what they did."""
    every = prices(shares=8, seed=1)
    for sector in ([0, 1, 2, 3], [4, 5, 6, 7]):
        earned, expected = forecast_returns(every[:, sector], 300)
        before = returns(every[:, sector])[:300]
        held = {
            "least risk": minimum_risk(before).expand_as(earned),
            "highest Sharpe": torch.stack([maximum_sharpe(before, day) for day in expected]),
            "first component": eigen_portfolios(before)[0].expand_as(earned),
        }
        reports = {name: trade(earned, shares) for name, shares in held.items()}
        least = reports["least risk"]
        assert least["strategy"]["risk"] < 1.05 * least["hold"]["risk"]
        predicted_risk = float((before @ held["least risk"][0]).std(correction=0)) * math.sqrt(252)
        assert 0.5 < least["strategy"]["risk"] / predicted_risk < 2
        best = reports["highest Sharpe"]
        assert best["strategy"]["sharpe"] > best["hold"]["sharpe"]
        predicted, realised = ((held["highest Sharpe"] * of).sum(1) for of in (expected, earned))
        assert float(torch.corrcoef(torch.stack([predicted, realised]))[0, 1]) > 0.2


def test_convolutions_in_front_of_a_recurrence_beat_the_last_value():
    """A convolution over three steps is a map of overlapping patches."""
    model = Chain(
        Patches(3, every=1), nn.Linear(3, WIDTH), nn.ReLU(), Backbone(WIDTH, "lstm", mlp=0), nn.Linear(WIDTH, 1)
    )

    def loss():
        x = waves(32, 40)
        return (model(x)[0][:, :-1] + x[:, 2:-1] - x[:, 3:]).abs().mean()

    trained(model, loss, 120)
    x = waves(200, 40)
    with torch.no_grad():
        error = (model(x)[0][:, 5:-1] + x[:, 7:-1] - x[:, 8:]).abs().mean()
    assert float(error) < 0.7 * float((x[:, 7:-1] - x[:, 8:]).abs().mean())


def test_a_frozen_module_reads_and_little_is_trained():
    """Any module, frozen, says what stretches of a series are; a small part behind it is trained."""
    frozen = nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 32)).requires_grad_(False)
    model = Chain(Patches(8), frozen, nn.Linear(32, WIDTH), Mean(WIDTH), nn.Linear(WIDTH, 2))

    def loss():
        x, fast = rhythms(64)
        return surprise(model(x)[0][:, -1], fast)

    trained(model, loss, 150)
    x, fast = rhythms(300)
    assert right(model(x)[0][:, -1], fast) > 0.9
    trainable, all_of_them = (sum(p.numel() for p in model.parameters() if p.requires_grad or k) for k in (False, True))
    assert trainable < 0.25 * all_of_them


def rhythms(batch):
    """A fast wave or a slow one, of any phase."""
    fast = torch.randint(2, (batch,))
    turns = torch.arange(48) / (12 - 6 * fast[:, None]) + torch.rand(batch, 1)
    return ((2 * math.pi * turns).sin() + 0.2 * torch.randn(batch, 48))[..., None], fast
