"""What published layers with linear states claim of themselves, each on a problem on which it shows."""

import math

import pytest
import torch
from torch import nn
from toys import Reader, grown, right, surprise, trained

import recurra
from examples.spiking import LIF
from recurra.models.backbone import Backbone

pytestmark = pytest.mark.slow


def parity(batch, length):
    bits = torch.randint(2, (batch, length))
    return bits, bits.cumsum(1) % 2


def test_parity_is_learnt_up_to_40_and_holds_at_256_with_negative_eigenvalues_only():
    share = {}
    for negative in (True, False):
        model = Reader(recurra.layer("delta-net", 16, heads=2, negative_eigenvalues=negative), 2, 2)
        grown(model, parity, 40, 800)
        with torch.no_grad():
            bits, expected = parity(100, 256)
            share[negative] = right(model(bits), expected)
    assert share[True] > 0.95
    assert share[False] < 0.7


def blobs(batch, time, side=8):
    """Bright spots that fly through a frame and bounce off its border: [batch, time, side * side]."""
    speed = (0.4 + 0.8 * torch.rand(batch, 1, 2)) * torch.where(torch.rand(batch, 1, 2) < 0.5, -1, 1)
    way = (side - 1) * torch.rand(batch, 1, 2) + speed * torch.arange(time)[:, None]
    place = (side - 1) - ((way % (2 * side - 2)) - (side - 1)).abs()
    off = torch.arange(side) - place[..., None]
    near = torch.exp(-(off**2))
    return (near[:, :, 0, :, None] * near[:, :, 1, None, :]).flatten(2)


def test_frames_of_moving_spots_are_foreseen_better_than_by_the_last_frame():
    layer = recurra.layer("conv-s5", 64, state_size=32, height=8, breadth=8, dt_min=0.1, dt_max=1.0)

    def foreseen(x):
        return x[:, :-1] + layer(x)[0][:, :-1]

    def loss():
        x = blobs(16, 24)
        return ((foreseen(x) - x[:, 1:])[:, 4:] ** 2).mean()

    trained(layer, loss, 150)
    x = blobs(100, 24)
    with torch.no_grad():
        error = ((foreseen(x) - x[:, 1:])[:, 4:] ** 2).mean()
    assert error < 0.5 * ((x[:, :-1] - x[:, 1:])[:, 4:] ** 2).mean()
    scan, loop = (layer(x[:2], engine=engine)[0] for engine in ("scan", "loop"))
    assert (scan - loop).abs().max() < 1e-5


LONG = 1000


def first_of_many(batch):
    """A sign in the first ten of a thousand time steps, beneath noise; it is asked for at the end."""
    sign = torch.randint(2, (batch,))
    x = 0.1 * torch.randn(batch, LONG, 1)
    x[:, :10, 0] += 2.0 * sign[:, None] - 1
    return x, sign


@pytest.mark.parametrize(("name", "options", "remembers"), [
    ("s4", {"state_size": 16, "dt_min": 1e-3, "dt_max": 1e-2}, True), ("rnn", {}, False),
])  # fmt: skip
def test_what_came_a_thousand_steps_ago_is_known_to_s4_and_not_to_a_plain_network(name, options, remembers):
    inward, layer, head = nn.Linear(1, 8), recurra.layer(name, 8, **options), nn.Linear(8, 2)
    model = nn.ModuleList([inward, layer, head])

    def answer(x):
        return head(layer(inward(x))[0][:, -1])

    def loss():
        x, sign = first_of_many(16)
        return surprise(answer(x), sign)

    trained(model, loss, 150)
    with torch.no_grad():
        x, sign = first_of_many(200)
        share = right(answer(x), sign)
    assert share > 0.95 if remembers else share < 0.7


def centre(layer, time=4000):
    """How many time steps ago an impulse was, on average over what is left of it."""
    with torch.no_grad():
        silent = torch.zeros(1, time, layer.width, dtype=torch.float64)
        struck = silent.clone()
        struck[:, 0] = 1e-3  # so little that what follows the layer's states is all but linear
        left = (layer(struck)[0] - layer(silent)[0]).square().sum((0, 2))
    return float((torch.arange(time) * left).sum() / left.sum())


def test_memory_is_as_long_as_the_step_is_short():
    """Of one and the same layer, a quarter of the step is four times the memory."""
    layer = recurra.layer("lssl", 4, dt_min=0.04, dt_max=0.04).double()
    found = []
    for step in (0.04, 0.01, 0.0025):
        with torch.no_grad():
            layer.dt_log.fill_(math.log(step))
            layer.D.zero_()
        found.append(centre(layer))
    assert 3.5 < found[1] / found[0] < 4.5
    assert 3.5 < found[2] / found[1] < 4.5


def test_a_companion_state_is_an_autoregression():
    """Left to itself, the last number of the state follows the coefficients that were planted, exactly."""
    planted = torch.tensor([0.1, -0.2, 0.4, -0.3], dtype=torch.float64)  # of four steps ago, ..., of the step before
    layer = recurra.layer("space-time", 1, order=4).double()
    with torch.no_grad():
        layer.a.copy_(planted)
        layer.b.zero_()
    state, series = layer.initial_state(1), []
    state["h"][:] = torch.randn(4, dtype=torch.float64)
    for _ in range(60):
        series.append(float(state["h"][0, 0, -1].detach()))
        _, state = layer.advance(torch.randn(1, 1, dtype=torch.float64), state)
    z = torch.tensor(series, dtype=torch.float64)
    expected = sum(planted[-i] * z[4 - i : 60 - i] for i in range(1, 5))
    torch.testing.assert_close(z[4:], expected)


def waves(batch, time):
    """A slow and a fast wave, of any phases: [batch, time, 1]."""
    t = torch.arange(time) + 100 * torch.rand(batch, 1)
    other = torch.arange(time) + 100 * torch.rand(batch, 1)
    return (torch.sin(2 * math.pi * t / 24) + 0.5 * torch.sin(2 * math.pi * other / 7))[..., None]


def test_what_comes_out_goes_in_again_far_beyond_the_horizon_of_training():
    """Trained on the next value alone; then its own values are its input, and nothing is read again."""
    inward, layer, head = nn.Linear(1, 16), recurra.layer("space-time", 16, order=24), nn.Linear(16, 1)
    model = nn.ModuleList([inward, layer, head])

    def loss():
        x = waves(32, 80)
        return ((head(layer(inward(x[:, :-1]))[0]) - x[:, 1:])[:, 24:] ** 2).mean()

    trained(model, loss, 400)
    x = waves(50, 160)
    with torch.no_grad():
        y, state = layer(inward(x[:, :100]))
        said, error = head(y[:, -1]), []
        for t in range(100, 160):
            error.append(float(((said - x[:, t]) ** 2).mean()))
            y, state = layer.advance(inward(said), state)
            said = head(y)
    assert sum(error) / len(error) < 0.2 * float(x.square().mean())


def test_few_taps_reach_as_far_as_a_long_convolution():
    layer = recurra.layer("multires-conv", 4, depth=8).double()
    with torch.no_grad():
        layer.filters.uniform_(0.5, 1)
    x = torch.randn(1, 300, 4, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(layer(x)[0][0, -1].sum(), x)
    reach = slope[0].abs().sum(-1).count_nonzero()
    assert reach == 256
    taps = layer.filters.numel() + layer.weights.numel()
    assert 10 * taps < reach * 4  # of a convolution of each channel


def test_deeper_layers_with_higher_bounds_remember_longer():
    """After training as before it: half of what a layer holds is there for the longer, the higher its bound."""
    bounds = {"hgrn@low": 0.0, "hgrn@middle": 0.8, "hgrn@high": 0.97}
    layers = {name: {"lower_bound": bound} for name, bound in bounds.items()}
    middle, embed, head = Backbone(16, "+".join(bounds), mlp=0, layers=layers), nn.Embedding(8, 16), nn.Linear(16, 8)

    def loss():
        symbols = torch.randint(8, (16, 40))
        return surprise(head(middle(embed(symbols))[0])[:, 3:], symbols[:, :-3])

    trained(nn.ModuleList([embed, middle, head]), loss, 40)
    lives = [half_life(block.recurrence) for block in middle.blocks]
    assert lives == sorted(lives)
    assert lives[-1] > 4 * lives[0]


@torch.no_grad()
def half_life(layer):
    """Time steps without input until half of a state is left."""
    _, state = layer(torch.randn(1, 20, layer.width))
    zero, steps = layer.initial_state(1), 0
    begun = apart(state, zero)
    while apart(state, zero) > begun / 2:
        (_, state), (_, zero) = (layer.advance(torch.zeros(1, layer.width), one) for one in (state, zero))
        steps += 1
    return steps


def apart(state, other):
    return sum(float((value - other[name]).abs().sum()) for name, value in state.items())


def test_sums_do_not_depend_on_the_way_through_a_grid():
    """What has been summed up of a grid is the same by rows, by columns and in any order."""
    layer = recurra.layer("light-net", 8, heads=2).double()
    grid = torch.randn(1, 5, 6, 8, dtype=torch.float64)
    rows, columns = grid.flatten(1, 2), grid.transpose(1, 2).flatten(1, 2)
    (_, a), (_, b), (_, c) = (layer(x) for x in (rows, columns, rows[:, torch.randperm(30)]))
    for name in a:
        torch.testing.assert_close(a[name], b[name])
        torch.testing.assert_close(a[name], c[name])


def copied(batch, length):
    """Three to `length` symbols of four, a mark, and the symbols again, in the same order: cross-serial pairs."""
    count = int(torch.randint(3, length + 1, ()))
    word = torch.randint(4, (batch, count))
    symbols = torch.cat([word, torch.full((batch, count), 4)], 1)
    return symbols, torch.cat([torch.full((batch, count), -1), word], 1)


@pytest.mark.parametrize("name", ["urn", "lstm"])
def test_crossing_dependencies_are_learnt(name):
    options = {"heads": 1, "size": 16} if name == "urn" else {}
    model = Reader(recurra.layer(name, 16, **options), 5, 4)

    def loss():
        symbols, word = copied(64, 4)
        return surprise(model(symbols), word)

    trained(model, loss, 500)
    with torch.no_grad():
        symbols, word = copied(400, 4)
        assert right(model(symbols), word) > 0.9


def remembered(order, delay=40, theta=50.0, time=300):
    """How far off a window of that order holds a signal of `delay` steps ago, read by least squares."""
    layer = recurra.layer("lmu", 1, memory=order, theta=theta).double()
    with torch.no_grad():
        layer.to_signal.weight.fill_(1.0)
        layer.to_signal.bias.zero_()
        t = torch.arange(time, dtype=torch.float64)
        x = torch.sin(2 * math.pi * t / 31) + torch.cos(2 * math.pi * t / 19)
        state, held = None, []
        for value in x:
            _, state = layer.advance(value.reshape(1, 1), state)
            held.append(state["m"][0, 0])
        held, past = torch.stack(held)[100:], x[100 - delay : time - delay]
        return float((held @ torch.linalg.lstsq(held, past[:, None]).solution)[:, 0].sub(past).norm() / past.norm())


def test_legendre_windows_of_higher_order_hold_more():
    off = [remembered(order) for order in (2, 3, 6)]
    assert off[0] > off[1] > 10 * off[2]


class Spiking(nn.Module):
    """Spikes into a window of the past, and spikes out of it: maps, neurons, `lmu`, neurons."""

    def __init__(self, width):
        super().__init__()
        self.neurons = nn.ModuleList(LIF(width) for _ in range(2))
        self.window, self.head = recurra.layer("lmu", width, memory=6, theta=20.0), nn.Linear(width, 2)

    def forward(self, x, states=(None, None, None)):
        given, first = self.neurons[0](x, states[0])
        y, window = self.window(given, states[1])
        spikes, second = self.neurons[1](4 * y, states[2])
        return self.head(spikes), (given, spikes), (first, window, second)


def test_spiking_windows_learn_and_decide_while_they_listen():
    """All that passes between the parts is a spike or none; a decision from the first half needs no second reading."""
    model = Spiking(16)

    def drawn(batch):
        fast = torch.randint(2, (batch,))
        turns = torch.arange(60) / (16 - 10 * fast[:, None]) + torch.rand(batch, 1)
        return (2 * math.pi * turns).sin()[..., None].expand(-1, -1, 16) + 0.1 * torch.randn(batch, 60, 16), fast

    def loss():
        x, fast = drawn(32)
        said = model(x)[0][:, 20:]
        return surprise(said, fast[:, None].expand(said.shape[:2]))

    trained(model, loss, 120)
    x, fast = drawn(200)
    with torch.no_grad():
        said, fired, _ = model(x)
        for spikes in fired:
            assert spikes.unique().tolist() == [0, 1]
            assert 0.01 < spikes.mean() < 0.9
        early, _, states = model(x[:, :30])
        later, _, _ = model(x[:, 30:], states)
    torch.testing.assert_close(torch.cat([early, later], 1), said)
    assert right(said.mean(1), fast) > 0.9
    assert right(early.mean(1), fast) > 0.75
