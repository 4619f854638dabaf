"""Every option of every layer at its smallest, at odd sizes and as drawn: a layer is still its reference."""

from itertools import product

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import recurra
from recurra import Lane, Recurrence
from recurra.engines import compiled
from recurra.registry import _options_of
from recurra.testing.cases import compare, draw
from recurra.testing.forms import packed_and_padded, same_as_reference
from recurra.testing.tolerances import assert_close

LAYERS = list(recurra.layers())
WORDS = {"nonlinearity": ("tanh", "relu"), "init": ("legs", "lin", "inv"), "discretisation": ("zoh", "bilinear"),
         "feature_map": ("elu", "relu", "t2r", "hedgehog", "dpfp"), "basis": ("legs", "legt", "lagt", "fout"),
         "reset": ("after", "before"), "pooling": ("f", "fo", "ifo"), "scheme": ("im", "imex"),
         "variant": ("vanilla", "NIG", "NFG", "NOG", "NIAF", "NOAF", "CIFG", "NP", "FGR")}  # fmt: skip
"""Options that are words, with what they may be."""


def values(name, default):
    """What an option is tried at, besides its default."""
    if isinstance(default, bool):
        return (False, True)
    if isinstance(default, float):
        return (1.0,)
    return WORDS[name] if isinstance(default, str) else (1, 2, 3, 5)


def options(name):
    return _options_of(recurra.layers()[name])


def build(name, width, chosen):
    try:
        return recurra.layer(name, width, **chosen)
    except recurra.InputError:
        return None


def all_at(name, sizes, widths):
    """The layer with all its sizes at the first of `sizes`, at the first of `widths`; where that cannot be, with as few
    of them as must be at the next, or at their defaults."""
    keys = [key for key, default in options(name).items() if default is None or type(default) is int]
    ways = sorted(product(range(len(sizes) + 1), repeat=len(keys)), key=sum)
    for width in widths:
        for way in ways:
            chosen = {key: sizes[at] for key, at in zip(keys, way, strict=True) if at < len(sizes)}
            if build(name, width, chosen):
                return lambda width=width, chosen=chosen: recurra.layer(name, width, **chosen)
    raise AssertionError(f"{name} cannot be built at any width of {widths}")


def hold(make):
    """Whole sequences on what runs by default, and one time step as streaming takes it."""
    compare(draw(make, torch.float64, 2, 5, state=True, resets=True, lengths=True), "auto")
    case = draw(make, torch.float64, batch=1, time=1, state=True)
    with torch.no_grad():
        y, state = case.layer.advance(case.x[:, 0], case.state)
    expected, after = case.run("loop")
    assert_close("y of one time step", y, expected[:, 0])
    for key, value in after.items():
        assert_close(f"{key} after one time step", state[key], value)


@pytest.mark.parametrize("name", LAYERS)
def test_smallest(name):
    hold(all_at(name, (1, 2), (1, 2, 4)))


LONG = {"atlas"}
"""Layers that take many seconds to compile with three of everything."""


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow if n in LONG else ()) for n in LAYERS])
def test_odd(name):
    hold(all_at(name, (3, 6), (9, 18)))


HEADS = [n for n, kind in recurra.layers().items() if issubclass(kind, Recurrence) and kind.lane is Lane.HEAD]
FAST = {"gated-delta-net", "delta-net", "gla"}


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in FAST else pytest.mark.slow) for n in HEADS])
def test_many_small_heads(name, monkeypatch):
    """More heads than a vector has numbers, each so small that vectors run across them, however little they compute."""
    monkeypatch.setattr(compiled, "MUCH", 0)
    size = {"heads": 17} if "heads" in options(name) else {"head_size": 4}

    def make():
        return recurra.layer(name, 68, **size)

    if name in FAST:
        assert compiled.plan_of(make().problem(torch.randn(1, 1, 68))).channel
    same_as_reference(make, "compiled", torch.float32)
    packed_and_padded(make, "compiled", torch.float64)


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYERS)
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_drawn(name, data):
    chosen = {}
    for key, default in options(name).items():
        if data.draw(st.booleans(), key):
            chosen[key] = data.draw(st.sampled_from(values(key, default)), key)
    width = data.draw(st.integers(1, 7), "width")
    assume(build(name, width, chosen) is not None)
    hold(lambda: recurra.layer(name, width, **chosen))
