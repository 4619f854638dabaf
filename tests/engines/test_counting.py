"""Whole numbers and flags in states and inputs: counted exactly on every engine that can, refused by name by others."""

import pytest
import torch
from torch import nn

import recurra
from recurra import Lane, Recurrence
from recurra.engines import choose
from recurra.engines.choose import observe
from recurra.testing.tolerances import assert_close


class Counter(Recurrence):
    """A memory with a count, a clock, flags and an action per time step."""

    lane = Lane.LAYER

    def __init__(self, width, actions=3):
        super().__init__(width)
        self.W, self.to_x = nn.Parameter(torch.randn(actions, width)), nn.Linear(width, width)

    def start(self):
        return {
            "h": torch.zeros(self.width), "count": torch.zeros((), dtype=torch.int64),
            "clock": torch.tensor([5, -3], dtype=torch.int32), "seen": torch.zeros(self.width, dtype=torch.bool),
        }  # fmt: skip

    def inputs(self, x):
        action = (x[..., 0] * 10).nan_to_num().long() % 3
        return {"x": self.to_x(x), "action": action, "mask": x > 0, "day": (action + 4).to(torch.int32)}

    def step(self, h, count, clock, seen, x, action, mask, day):
        tick = count % 4 == 2
        gate = torch.sigmoid(self.W[action] + h)
        h = torch.where(mask & ~seen, gate * torch.tanh(x), h) * (1 + (count // 3 == action).to(h.dtype))
        h = torch.where(tick, 0.5 * h, h) + clock.sum().to(h.dtype) * nn.functional.one_hot(action, 3)[1] / 64
        count = torch.where((action == 2) & (day > 5), 0, count + action + 1)
        clock = torch.where(clock > 40, clock - 2 * day, clock + day)
        return (h, count, clock, seen ^ mask), h + count


class Counters(Recurrence):
    """One for each channel, and of an affine memory."""

    lane = Lane.CHANNEL

    def start(self):
        return {"h": torch.zeros(self.width), "n": torch.zeros(self.width, dtype=torch.int64)}

    def inputs(self, x):
        return {"x": x, "k": (4 * x).nan_to_num().long()}

    def step(self, h, n, x, k):
        h = 0.9 * h + x
        return (h, (n + k) % 5), h * (n + 1)


def run(layer, x, engine, state=None, **options):
    leaf = x.clone().requires_grad_()
    y, state = layer(leaf, state, engine=engine, **options)
    wanted = [leaf, *layer.parameters()]
    return y, state, torch.autograd.grad(y.square().sum(), wanted) if y.numel() else ()


def assert_same(name, got, expected):
    assert_close(f"y on {name}", got[0], expected[0])
    for one, other in zip(got[2], expected[2], strict=True):
        assert_close(f"a gradient on {name}", one, other)
    for entry, value in expected[1].items():
        assert got[1][entry].dtype is value.dtype
        assert not got[1][entry].requires_grad or value.is_floating_point()
        assert_close(f"{entry} on {name}", got[1][entry], value)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", [Counter, Counters])
def test_engines_count_alike(kind, dtype):
    layer = kind(6).to(dtype)
    for batch, time in ((3, 19), (1, 1), (2, 0), (0, 3)):
        x = torch.randn(batch, time, 6, dtype=dtype)
        resets = torch.rand(batch, time) < 0.2
        for options in ({}, {"resets": resets}, {"lengths": torch.randint(0, time + 1, (batch,))}):
            expected = run(layer, x, "loop", **options)
            for engine in ("compiled", "replay"):
                assert_same(engine, run(layer, x, engine, **options), expected)
    with observe() as seen:
        layer(torch.randn(2, 5, 6, dtype=dtype))
    assert seen == ["compiled"]


@pytest.mark.parametrize("kind", [Counter, Counters])
def test_cut_streamed_and_saved(kind, tmp_path):
    layer, x = kind(6), torch.randn(2, 13, 6)
    with torch.no_grad():
        whole, last = layer(x)
        first, state = layer(x[:, :6])
        state.save(tmp_path / "state.safetensors")
        state = recurra.State.load(tmp_path / "state.safetensors")
        outputs = [first]
        for t in range(6, 13):
            y, state = layer.advance(x[:, t], state)
            outputs.append(y[:, None])
    assert_close("y", torch.cat(outputs, 1), whole)
    for name, value in last.items():
        assert state[name].dtype is value.dtype
        assert_close(name, state[name], value)


@pytest.mark.parametrize("engine", ["newton", "scan", "convolution"])
def test_engines_that_cannot_count_say_so(engine):
    with pytest.raises(recurra.EngineRefused, match=r"int64|affine"):
        Counters(6)(torch.randn(2, 5, 6), engine=engine)


@pytest.mark.parametrize(("name", "far"), [("count", 2**40), ("clock", 2**31 - 20), ("count", -(2**62))])
def test_who_counts_too_far_is_counted_by_whole_numbers(name, far):
    layer, x = Counter(6), torch.randn(1, 4, 6)
    state = layer.initial_state(1)
    state[name] += far
    with pytest.raises(recurra.EngineRefused, match="count wrong"):
        layer(x, state, engine="compiled")
    choose._warned.clear()
    with observe() as seen, pytest.warns(UserWarning, match="count wrong"):
        y, after = layer(x, state)
    assert seen == ["replay"]
    expected, last = layer(x, state, engine="loop")
    assert_close("y", y, expected)
    assert torch.equal(after[name], last[name])


class Doubling(Counters):
    def step(self, h, n, x, k):
        return (h + x, 2 * n + k), h + n


def test_what_grows_by_a_factor_is_not_compiled():
    with pytest.raises(recurra.EngineRefused, match="count"):
        Doubling(4)(torch.randn(1, 3, 4), engine="compiled")
