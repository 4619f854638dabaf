"""Two voices told apart by memory blocks alone, and what gates, recurrence and attention each bring to a forecast."""

import math

import pytest
import torch
from torch import nn
from toys import trained

import recurra
from recurra.models.backbone import Backbone
from recurra.tasks.chain import Chain

pytestmark = pytest.mark.slow
FRAME = 8


def voices(batch, time=320):
    """A low tone whose loudness swells and a high one: both, and the low one alone, [batch, time / FRAME, FRAME]."""
    t, (low, high) = torch.arange(time), (2 * math.pi * torch.rand(2, batch, 1))
    swell = 0.6 + 0.4 * torch.sin(2 * math.pi * t / 150 + low)
    wanted = swell * torch.sin(2 * math.pi * t / 25 + low)
    both = wanted + torch.sin(2 * math.pi * t / 6.3 + high)
    return both.unflatten(-1, (-1, FRAME)), wanted.unflatten(-1, (-1, FRAME))


def si_sdr(said, wanted):
    """Decibels of what is wanted, at any loudness, over the rest, on average over sequences."""
    said, wanted = said.flatten(1), wanted.flatten(1)
    scale = (said * wanted).sum(1, keepdim=True) / wanted.square().sum(1, keepdim=True)
    return float((10 * torch.log10((scale * wanted).square().sum(1) / (said - scale * wanted).square().sum(1))).mean())


@pytest.mark.parametrize("name", ["fsmn", "gated-fsmn"])
def test_a_mask_from_memory_blocks_tells_two_voices_apart(name):
    inward, outward = nn.Linear(FRAME, 32, bias=False), nn.Linear(32, FRAME, bias=False)
    mask = Chain(recurra.layer(name, 32, hidden=16), nn.Linear(32, 32), nn.Sigmoid())
    model = nn.ModuleList([inward, mask, outward])

    def told(both):
        seen = inward(both)
        return outward(mask(seen)[0] * seen)

    def loss():
        both, wanted = voices(16)
        return (told(both) - wanted).square().mean()

    trained(model, loss, 250)
    both, wanted = voices(100)
    with torch.no_grad():
        assert si_sdr(told(both), wanted) > si_sdr(both, wanted) + 5


def weather(batch, time, size=6, force=8.0):
    """The Lorenz-96 equations by Runge and Kutta's rule, after they have settled, made small: [batch, time, size]."""

    def slope(x):
        return (x.roll(-1, 1) - x.roll(2, 1)) * x.roll(1, 1) - x + force

    x, seen = force + torch.randn(batch, size), []
    for _ in range(200 + time):
        for dt in (0.025, 0.025):
            a = slope(x)
            b = slope(x + dt / 2 * a)
            c = slope(x + dt / 2 * b)
            x = x + dt / 6 * (a + 2 * b + 2 * c + slope(x + dt * c))
        seen.append((x - 2.3) / 3.6)
    return torch.stack(seen[200:], 1)


BLOCKS = {
    "recurrence": "rnn",
    "recurrence, gates": "rhn",
    "attention": "attention",
    "attention, gates": "attention@gated",
    "recurrence, attention": "rnn+attention",
    "recurrence, gates, attention": "rhn+attention",
}


def valid_time(forecast, truth):
    """Time steps until a forecast is off by half of what the weather varies, on average over sequences."""
    off = (forecast - truth).square().mean(-1).sqrt() > 0.5 * truth.std()
    return float((off.long().cumsum(1) == 0).sum(1).double().mean())


def test_gates_recurrence_and_attention_are_chosen_apart():
    """Each combination foresees chaos for longer than the last value does."""
    table, x, days = {}, weather(64, 100), weather(256, 60)
    for name, pattern in BLOCKS.items():
        middle = Backbone(24, pattern, mlp=0, layers={"attention@gated": {"gated": True}} if "@" in pattern else {})
        inward, outward = nn.Linear(6, 24), nn.Linear(24, 6)

        def missed(x, inward=inward, middle=middle, outward=outward):
            return (x[:, :-1] + outward(middle(inward(x[:, :-1]))[0]) - x[:, 1:])[:, 10:].square().mean()

        trained(
            nn.ModuleList([inward, middle, outward]), lambda missed=missed: missed(days[torch.randint(256, (16,))]), 150
        )
        with torch.no_grad():
            y, state = middle(inward(x[:, :60]))
            said, forecast = x[:, 59] + outward(y[:, -1]), []
            for _ in range(40):
                forecast.append(said)
                y, state = middle(inward(said[:, None]), state)
                said = said + outward(y[:, 0])
        table[name] = valid_time(torch.stack(forecast, 1), x[:, 60:])
    assert min(table.values()) > valid_time(x[:, 59:60].expand(-1, 40, -1), x[:, 60:])
