"""Widths that fill no vector and split into no even heads: compiled, every layer is still its reference."""

import pytest
import torch

import recurra
from recurra.engines.stepping import single
from recurra.testing.cases import draw, gradients
from recurra.testing.laws import engines_for
from recurra.testing.tolerances import assert_close

COMPLEX_WEIGHTS = {"s4d", "s5", "dss"}
COMPILED = [n for n in recurra.layers() if "compiled" in engines_for(lambda n=n: recurra.layer(n, 8), torch.float64)]
EVEN = {"retnet"}
"""Layers that turn pairs of channels."""


def cases(without=()):
    for name in COMPILED:
        for width in (6,) if name in EVEN else (3, 5, 6, 7):
            if name not in without:
                yield pytest.param(name, width, marks=() if width == 6 else pytest.mark.slow)


def build(name, width):
    """The layer with its usual heads if they divide the width, else with as many as do."""
    for options in ({}, {"heads": 3}, {"heads": 1}, {"heads": 1, "block": 2}, {"head_size": width}):
        try:
            return recurra.layer(name, width, **options)
        except recurra.InputError as error:
            last = error
    raise last


@pytest.mark.parametrize(("name", "width"), list(cases()))
def test_whole_sequences(name, width):
    case = draw(lambda: build(name, width), torch.float64, state=True, resets=True, lengths=True)
    got, expected = gradients(case, "compiled"), gradients(case, "loop")
    for key, value in expected.items():
        assert_close(key, got[key], value)


@pytest.mark.parametrize(("name", "width"), list(cases(COMPLEX_WEIGHTS)))
def test_single_steps(name, width):
    case = draw(lambda: build(name, width), torch.float64, batch=1, time=1, state=True)
    with torch.no_grad():
        done = single.advance(case.layer, lambda: [case.layer], case.x, [case.state])
    y, state = case.run("loop")
    assert done is not None
    assert_close("y", done[0], y)
    for key, value in state.items():
        assert_close(key, done[1][0][key], value)
