"""Steps that compute with integers, or with more than one type of floating point."""

import pytest
import torch
from cells import Cell

import recurra
from recurra.engines import choose
from recurra.problem import constant
from recurra.testing.tolerances import assert_close


class Counting(Cell):
    """An average over time, by a counter of the type given, which may wrap around."""

    def __init__(self, width, dtype, by):
        super().__init__(width)
        self.dtype, self.by = dtype, by

    def start(self):
        return {"h": torch.zeros(self.width), "n": torch.zeros(self.width, dtype=self.dtype)}

    def step(self, h, n, x):
        n = n + self.by
        return (torch.where(n > 0, h + (x - h) / (1 + n), h), n), h


class OfIntegers(Cell):
    def inputs(self, x):
        return {"x": (100 * x).to(torch.int8)}

    def step(self, h, x):
        return h + 2 * x, h


class WithAnInteger(Cell):
    def __init__(self, width):
        super().__init__(width)
        self.register_buffer("much", torch.tensor(2**62 + 1))

    def step(self, h, x):
        return h + 4 * self.much * x, h


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Counting(4, torch.uint8, 100), "state 'n' is uint8"),
        (lambda: OfIntegers(4), "input 'x' is int8"),
        (lambda: WithAnInteger(4), "weight 'much' is int64"),
    ],
)
def test_narrow_integers_are_left_to_the_reference(make, words):
    layer, x = make(), torch.randn(2, 6, 4)
    for engine in ("compiled", "scan", "convolution", "newton"):
        with pytest.raises(recurra.EngineRefused, match=words):
            layer(x, engine=engine)
    expected, last = layer(x, engine="loop")
    choose._warned.clear()
    with pytest.warns(UserWarning, match=words):
        y, state = layer(x[:, :3])
    rest, state = layer(x[:, 3:], state)
    assert torch.equal(torch.cat([y, rest], 1), expected)
    assert all(torch.equal(state[name], last[name]) and state[name].dtype is last[name].dtype for name in last)
    y, one = layer.advance(x[:1, 0], layer.initial_state(1))
    assert torch.equal(y, expected[:1, 0])
    assert all(one[name].dtype is last[name].dtype for name in last)


def test_constants_of_another_type_do_no_harm():
    class Stepped(Cell):
        def step(self, h, x):
            kept = torch.where(x > 0, torch.tensor(1.0), torch.tensor(0.5))
            return h * kept + x * torch.ones(()), h

    x = torch.randn(2, 5, 4, dtype=torch.float64)
    layer = Stepped(4).double()
    assert_close("y", layer(x, engine="compiled")[0], layer(x, engine="loop")[0])


def test_a_refusal_holds_for_the_types_of_weights_it_was_made_for():
    layer, x = WithAnInteger(4).double(), torch.randn(2, 6, 4, dtype=torch.float64)
    for much in (3, 0.5, 3 + 0.5j, 2):
        layer.much = torch.tensor(much, dtype=torch.float64 if isinstance(much, float) else None)
        if isinstance(much, int):
            with pytest.raises(recurra.EngineRefused, match="weight 'much' is int64"):
                layer(x, engine="compiled")
        elif isinstance(much, complex):
            with pytest.raises(recurra.InputError, match=r"came in as \[\] float64"):
                layer(x, engine="compiled")
        else:
            y, _ = layer(x, engine="compiled")
            assert_close("y", y, layer(x, engine="loop")[0])


class Numbered(Cell):
    """Gets the number of each time step, without using it."""

    def inputs(self, x):
        return {"x": x, "n": torch.arange(x.shape[1])[None, :, None].expand_as(x), "k": constant(torch.arange(4))}

    def step(self, h, x, n, k):  # noqa: ARG002
        return 0.5 * h + x, h


def test_integers_that_are_not_read_do_no_harm():
    layer, x = Numbered(4), torch.randn(2, 700, 4, dtype=torch.float64, requires_grad=True)
    resets = torch.rand(2, 700) < 0.01
    expected, last = layer(x, engine="loop", resets=resets)
    (slope,) = torch.autograd.grad(expected.square().sum(), x)
    for engine in ("compiled", "scan", "convolution", "newton"):
        y, state = layer(x, engine=engine, resets=resets)
        assert_close("y", y, expected)
        assert_close("h", state["h"], last["h"])
        assert_close("gradient", *torch.autograd.grad(y.square().sum(), x), slope)


class Placed(Cell):
    """Reads its state in the order that a buffer of whole numbers says."""

    lane = recurra.Lane.LAYER

    def __init__(self, width):
        super().__init__(width)
        self.register_buffer("order", torch.randperm(width))

    def step(self, h, x):
        h = torch.tanh(h[self.order] + x)
        return h, h


def test_positions_may_be_a_buffer():
    layer, x = Placed(5).double(), torch.randn(2, 6, 5, dtype=torch.float64)
    for order in (layer.order, torch.arange(5).flip(0)):
        layer.order = order
        assert_close("y", layer(x, engine="compiled")[0], layer(x, engine="loop")[0])
    layer.order = torch.full((5,), 2**60)
    with pytest.raises(recurra.InputError, match="'order' holds whole numbers"):
        layer(x, engine="compiled")
