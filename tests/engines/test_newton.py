"""Newton's method over time: how fast it converges, and that what it cannot solve is the recurrence's answer still."""

import pytest
import torch

import recurra
from recurra import Lane, Recurrence, constant
from recurra.engines import affine
from recurra.engines.newton import engine as newton
from recurra.testing.cases import draw, gradients
from recurra.testing.tolerances import assert_close


@pytest.mark.parametrize("name", ["diagonal-gru", "diagonal-lstm"])
def test_few_iterations_at_the_default_start(name):
    layer = recurra.layer(name, 64)
    with torch.no_grad():
        y, _ = layer(torch.randn(1, 4096, 64), engine="newton")
    solve = layer.last_solve
    assert solve.iterations <= 6
    assert solve.residual <= newton.ULPS
    assert solve.finished_by_loop <= 2048
    assert solve.seconds > 0
    assert y.isfinite().all()


class Network(Recurrence):
    """h <- f(scale W h + x), with W of spectral radius about 1."""

    lane = Lane.HEAD

    def __init__(self, width, scale, function, heads=1):
        super().__init__(width)
        self.function, self.heads = function, heads
        size = width // heads
        self.weight = torch.nn.Parameter(torch.randn(heads, size, size) * scale / size**0.5)

    def start(self):
        return {"h": torch.zeros(self.heads, self.width // self.heads)}

    def inputs(self, x):
        return {"x": x.unflatten(-1, (self.heads, -1)), "W": constant(self.weight)}

    def step(self, h, x, W):
        h = self.function(W @ h + x)
        return h, h


def kink(x):
    return torch.where(x > 0, 0.9 * torch.tanh(x), 0.3 * x.abs().clamp(max=1))


ADVERSARIES = {
    "chaotic 1.5": (8, 1.5, torch.tanh, 1.0),
    "chaotic 3": (8, 3.0, torch.tanh, 1.0),
    "chaotic 3, wide": (16, 3.0, torch.tanh, 0.1),
    "exploding relu": (8, 2.0, torch.relu, 1.0),
    "kinks": (8, 0.9, kink, 1.0),
    "chaotic kinks": (4, 4.0, kink, 1.0),
    "saturated": (8, 1.0, torch.sigmoid, 100.0),
    "saturated and steep": (8, 30.0, torch.sigmoid, 1.0),
    "a logistic map": (4, 0.0, lambda x: 3.9 * torch.sigmoid(x) * (1 - torch.sigmoid(x)), 1.0),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("time", [100, 1500])
@pytest.mark.parametrize("name", ADVERSARIES)
def test_adversaries(name, time, dtype):
    hold(name, time, dtype)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("name", ADVERSARIES)
def test_long_adversaries(name, seed, dtype):
    torch.manual_seed(seed)
    hold(name, 8192, dtype)


def hold(name, time, dtype):
    """Every time step follows from the one before; where the reference itself is stable, so does the trajectory."""
    width, scale, function, loudness = ADVERSARIES[name]
    layer = Network(width, scale, function).to(dtype)
    x = loudness * torch.randn(1, time, width, dtype=dtype)
    with torch.no_grad():
        y, state = layer(x, engine="newton")
        expected, _ = layer(x, engine="compiled")
        # Next to overflow, the order of a sum decides which term of it is the first to be infinite.
        near = (expected.abs().amax(-1) > torch.finfo(dtype).max / 64).cumsum(1) > 0
        assert torch.equal(y.isfinite()[~near], expected.isfinite()[~near])
        before = torch.cat([torch.zeros_like(y[:, :1]), y[:, :-1]], 1)
        after = function(before @ layer.weight[0].T + x)
        error = (after - y).abs().amax(-1)
        size = torch.maximum(after.abs(), before.abs()).amax(-1)
        # The test's own sums are rounded too: by the size of what goes into them.
        slope = 1 + (before.abs() @ layer.weight[0].abs().T + x.abs()).amax(-1)
        unit = torch.finfo(dtype).eps * (size + slope)
        finite = after.isfinite().all(-1) & y.isfinite().all(-1)
        assert (error <= (newton.ULPS + 16) * unit)[finite].all()
        assert layer.last_solve.iterations <= newton.ITERATIONS
        short, _ = layer.float()(x.float(), engine="compiled")
        exact, _ = layer.double()(x.double(), engine="compiled")
        if (exact - short).abs().max() <= 1e-5 * exact.abs().max():
            assert_close(name, y, expected, dtype)
    assert_close("last state", state["h"][:, 0], y[:, -1], dtype)


def test_what_does_not_converge_is_counted():
    """A tent map doubles every error, nearly, at every time step: no trajectory but the loop's can be told apart."""
    layer = Network(8, 0.0, lambda x: 1 - 1.9 * x.abs(), heads=8)
    torch.nn.init.ones_(layer.weight)
    with torch.no_grad():
        layer(0.001 * torch.rand(1, 4000, 8), engine="newton")
    assert 0 < layer.last_solve.finished_by_loop < 4000


class Switches(Recurrence):
    """h <- tanh(3 h + x): holds its sign until an input is loud enough to turn it."""

    lane = Lane.CHANNEL

    def start(self):
        return {"h": torch.zeros(self.width)}

    def inputs(self, x):
        return {"x": x}

    def step(self, h, x):
        h = torch.tanh(3 * h + x)
        return h, h


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_switches_that_are_held_for_long(dtype):
    layer = Switches(64).to(dtype)
    x = torch.randn(2, 5000, 64, dtype=dtype)
    x = torch.where(torch.rand_like(x) < 0.003, 4 * x.sign(), 0.1 * x)
    with torch.no_grad():
        y, _ = layer(x, engine="newton")
        expected, _ = layer(x, engine="loop")
    assert_close("y", y, expected, dtype)
    assert layer.last_solve.iterations <= 12
    assert layer.last_solve.finished_by_loop <= 1000


@pytest.mark.parametrize("make", [lambda: recurra.layer("lstm", 12), lambda: recurra.layer("slstm", 12)])
def test_quasi_newton_on_wide_lanes(make):
    case = draw(make, torch.float64, batch=2, time=40, state=True, resets=True)
    assert case.layer.structure.block > newton.LARGEST_BLOCK
    expected, got = gradients(case, "loop"), gradients(case, "newton")
    for key, value in expected.items():
        assert_close(key, got[key], value)


@pytest.mark.parametrize("name", ["diagonal-gru", "diagonal-lstm", "mamba"])
def test_where_there_is_no_compiled_loop(name, monkeypatch):
    """What runs on other devices: everything in PyTorch operations."""
    case = draw(lambda: recurra.layer(name, 8), torch.float64, batch=2, time=30, state=True, lengths=True)
    expected = gradients(case, "loop")
    monkeypatch.setattr(newton.compiled, "runs_on", lambda device: False)
    monkeypatch.setattr(affine.compiled, "runs_on", lambda device: False)
    got = gradients(case, "newton")
    for key, value in expected.items():
        assert_close(key, got[key], value)


def test_nan_comes_out_where_the_reference_has_it():
    layer = recurra.layer("diagonal-gru", 8)
    x = torch.randn(3, 300, 8)
    x[1, 120, 3] = float("nan")
    with torch.no_grad():
        y, _ = layer(x, engine="newton")
        expected, _ = layer(x, engine="loop")
    assert torch.equal(y.isnan(), expected.isnan())
    assert layer.last_solve.finished_by_loop == 180


class Root(Recurrence):
    """h <- sqrt(|h|) + x, whose derivative at 0 is not finite."""

    lane = Lane.CHANNEL

    def start(self):
        return {"h": torch.zeros(self.width)}

    def inputs(self, x):
        return {"x": x}

    def step(self, h, x):
        h = torch.sqrt(h.abs()) + x
        return h, h


def test_a_jacobian_that_is_not_finite_is_said_once():
    layer, x = Root(3), torch.zeros(1, 200, 3)
    x[:, 100:] = 1
    with torch.no_grad():
        with pytest.warns(UserWarning, match="met a Jacobian that is not finite, where the step itself is"):
            y, _ = layer(x, engine="newton")
        again, _ = layer(x, engine="newton")  # a second warning would be an error
        expected, _ = layer(x, engine="loop")
        with pytest.warns(UserWarning, match="not finite"):
            Root(3)(x, engine="newton")
    assert_close("y", y, expected, torch.float32)
    assert torch.equal(y, again)
