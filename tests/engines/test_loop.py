"""The reference loop: it runs whatever can be mapped over lanes, on no rows as well, and says what cannot be."""

import math
import re

import pytest
import torch
from torch.nn import functional as F

from recurra import EngineRefused, Lane, Recurrence, constant, shared
from recurra.engines import loop
from recurra.testing.cases import Case, gradients
from recurra.testing.tolerances import assert_close


class Whole(Recurrence):
    lane = Lane.LAYER

    def start(self):
        return {"h": torch.zeros(self.width)}

    def inputs(self, x):
        return {"x": x}


def with_step(step):
    return type("Cell", (Whole,), {"step": lambda self, h, x: step(h, x)})(4)


FORBIDDEN = {
    "if": (lambda h, x: (h, x) if h.sum() > 0 else (x, h), "use torch.where"),
    "max": (lambda h, x: (h * max(x[0], x[1]), x), "use torch.where"),
    "item": (lambda h, x: (h * x[0].item(), x), "compute with the tensor"),
    "float": (lambda h, x: (h * float(x[0]), x), "compute with the tensor"),
    "math": (lambda h, x: (h * math.tanh(x[0]), x), "compute with the tensor"),
    "dropout": (lambda h, x: (F.dropout(h) + x, x), "draw them in inputs"),
    "noise": (lambda h, x: (h + torch.randn_like(x), x), "draw them in inputs"),
    "choice": (lambda h, x: (h + torch.multinomial(torch.softmax(x, 0), 1), x), "draw them in inputs"),
    "mask": (lambda h, x: (h + x[x > 0].sum(), x), "use torch.where"),
    "equal": (lambda h, x: (h, x) if torch.equal(h, x) else (x, h), "many lanes at once"),
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_what_cannot_be_mapped_is_refused_with_its_line_at_every_door(what):
    step, advice = FORBIDDEN[what]
    x = torch.randn(2, 3, 4)
    place = re.escape(f"{__file__}:")
    for door in (
        lambda layer: layer(x),
        lambda layer: layer(x, engine="loop"),
        lambda layer: layer.advance(x[:, 0]),
        lambda layer: layer.explain(x),
    ):
        layer = with_step(step)
        with pytest.raises(EngineRefused, match=f"{place}.*{advice}|{advice}.*{place}") as refused:
            door(layer)
        assert "vmap" not in str(refused.value) or what == "equal"
        assert advice in layer.refusals(x)["loop"]


def test_numpy_is_refused_by_the_loop():
    with pytest.raises(EngineRefused, match="use PyTorch's operations"):
        with_step(lambda h, x: (h + torch.from_numpy(x.detach().numpy()), x))(torch.randn(2, 3, 4), engine="loop")


def test_what_is_met_only_later_is_refused_when_it_is_met():
    class Sometimes(Whole):
        noisy = False

        def step(self, h, x):
            h = torch.tanh(h + x) + (torch.randn_like(h) if self.noisy else 0)
            return h, h

    layer = Sometimes(4)
    layer(torch.randn(2, 3, 4), engine="loop")
    layer.noisy = True
    with pytest.raises(EngineRefused, match="draw them in inputs"):
        layer(torch.randn(2, 3, 4), engine="loop")


def test_a_mistake_in_the_step_stays_what_it_is():
    layer, x = with_step(lambda h, x: (h + x[:3], h)), torch.randn(2, 3, 4)
    assert loop.refuses(layer.problem(x)) is None
    with pytest.raises(RuntimeError, match="must match the size"):
        layer(x, engine="loop")


class Lanes(Recurrence):
    """Reads inputs of every kind; what it does with them is up to `step`."""

    lane = Lane.CHANNEL

    def __init__(self, width=4):
        super().__init__(width)
        self.weight = torch.nn.Parameter(torch.randn(width, 2))

    def start(self):
        return {"h": torch.zeros(self.width, 2), "c": torch.ones(self.width)}

    def inputs(self, x):
        return {"x": x, "m": shared(x[..., 0]), "w": constant(self.weight)}


def where(h, c, x, m, w):
    h = torch.where(x > m, h + w, h)
    return (h, c), h


def reshaped(h, c, x, m, w):
    h = torch.tanh((h + x * w).reshape(2, -1).sum(1) + m)
    return (h, c), h


def convolved(h, c, x, m, w):
    h = h + F.conv1d(w[None, None], torch.full((1, 1, 3), 0.5, dtype=w.dtype), padding=1)[0, 0]
    return (h, c), h.sum() * x + m


def at_the_edge(h, c, x, m, w):
    """Its slope at zero is infinite."""
    h = torch.sqrt(h.abs() + (x * x + m * m))
    return (h, c), h * w


@pytest.mark.parametrize("step", [where, reshaped, convolved, at_the_edge])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_no_rows_and_no_time_steps(step, dtype):
    layer = type("Cell", (Lanes,), {"step": lambda self, *a, **k: step(*a, **k)})().to(dtype)
    shape = layer(torch.ones(1, 1, 4, dtype=dtype), engine="loop")[0].shape[2:]
    for batch, time in ((0, 3), (2, 0), (0, 0)):
        x, state = torch.zeros(batch, time, 4, dtype=dtype), layer.initial_state(batch)
        for further in ({}, {"resets": x[..., 0] > 0}, {"lengths": torch.zeros(batch, dtype=torch.int64)}):
            got = gradients(Case(layer, x, state, **further), "loop")
            assert got["y"].shape == (batch, time, *shape)
            assert got["y"].dtype is dtype
            assert not got["gradient of parameter weight"].any()
            for name, value in state.items():
                assert torch.equal(got[f"state.{name}"], value), name


def in_place(h, c, x, m, w):
    x *= 0.5
    w += 1
    m.mul_(2)
    c.copy_(torch.tanh(c + x))
    h += x * m * w
    return (h, c), h * c


def out_of_place(h, c, x, m, w):
    x, w, m = x * 0.5, w + 1, m * 2
    c = torch.tanh(c + x)
    h = h + x * m * w
    return (h, c), h * c


def shares(h, c, x, m, w):
    """Writes what is its own into what all lanes read, and into what it makes."""
    new = torch.zeros(2, dtype=h.dtype)
    m *= x
    for i in range(2):
        new[i] = torch.tanh(h[1 - i] + m * w[i])
    return (new, c), new


def shares_nothing(h, c, x, m, w):
    h = torch.tanh(h.flip(0) + m * x * w)
    return (h, c), h


@pytest.mark.parametrize("lengths", [None, torch.tensor([3, 1])])
def test_what_all_lanes_share_may_be_written_to(lengths):
    x, results = torch.randn(2, 3, 4).double(), []
    weight = torch.randn(4, 2).double()
    for step in (shares, shares_nothing):
        layer = type("Cell", (Lanes,), {"step": lambda self, *a, step=step, **k: step(*a, **k)})().double()
        with torch.no_grad():
            layer.weight.copy_(weight)
        results.append(gradients(Case(layer, x, layer.initial_state(2), None, lengths), "loop"))
    for name, value in results[1].items():
        assert_close(name, results[0][name], value)


@pytest.mark.parametrize("lengths", [None, torch.tensor([3, 1])])
def test_a_step_that_works_in_place_writes_into_copies(lengths):
    torch.manual_seed(0)
    resets = torch.tensor([[True, False, False], [False, False, True]])
    x, cases = torch.linspace(-1, 1, 24).double().view(2, 3, 4), []
    for step in (in_place, out_of_place):
        layer = type("Cell", (Lanes,), {"step": lambda self, *a, step=step, **k: step(*a, **k)})().double()
        torch.nn.init.ones_(layer.weight)
        cases.append(Case(layer, x.clone(), layer.initial_state(2), resets, lengths))
    state = cases[0].state.map(torch.clone)
    with torch.no_grad():
        cases[0].run("loop")
    assert torch.equal(cases[0].x, x)
    assert all(torch.equal(cases[0].state[name], value) for name, value in state.items())
    got, expected = (gradients(case, "loop") for case in cases)
    for name, value in expected.items():
        assert_close(name, got[name], value)


class Cubed(torch.autograd.Function):
    """As it was written before `setup_context`: PyTorch cannot map it."""

    @staticmethod
    def forward(ctx, h):
        ctx.save_for_backward(h)
        return h**3

    @staticmethod
    def backward(ctx, grad):
        return 2 * grad * ctx.saved_tensors[0]


def test_a_function_that_cannot_be_mapped_runs_lane_by_lane():
    def step(h, x):
        h = torch.tanh(x + Cubed.apply(h))
        return h, h

    case = Case(with_step(step).double(), torch.randn(2, 5, 4, dtype=torch.float64))
    expected = gradients(case, "compiled")
    for name, value in gradients(case, "loop").items():
        assert_close(name, value, expected[name])


@pytest.mark.parametrize("loss", [F.mse_loss, F.huber_loss, F.smooth_l1_loss])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_losses_of_what_only_some_rows_differ_in(loss, reduction):
    """PyTorch's vmap mixes up the rows there: that of every sequence with a constant, in one lane and in several."""

    class Surprised(Recurrence):
        lane = Lane.HEAD

        def __init__(self, lanes):
            super().__init__(lanes * 3)
            self.lanes = lanes

        def start(self):
            return {"h": torch.zeros(self.lanes, 3)}

        def inputs(self, x):
            heads = x.unflatten(-1, (self.lanes, 3))
            return {"x": heads, "u": shared(heads[:, :, 0]), "b": constant(torch.full((self.lanes, 3), 0.3))}

        def step(self, h, x, u, b):
            h = 0.5 * h + x
            return h, torch.stack([loss(p, q, reduction=reduction) for p, q in ((h, u), (u, b), (b, u), (h, b))])

    for lanes in (1, 2):
        layer, x = Surprised(lanes).double(), torch.randn(3, 4, lanes * 3, dtype=torch.float64)
        y = layer(x, engine="loop")[0]
        assert y.shape == (3, 4, lanes * 4)
        for engine in ("compiled", "replay"):
            torch.testing.assert_close(layer(x, engine=engine)[0], y)
        alone = torch.cat([layer(row[None], engine="loop")[0] for row in x])
        torch.testing.assert_close(y, alone)
