"""Convolutions against the loop: many chunks, offsets, every kind of signal, and what is left to the loop."""

import pytest
import torch

import recurra
from recurra import Lane, Recurrence, constant, shared
from recurra.engines import convolution
from recurra.testing.cases import draw, gradients
from recurra.testing.tolerances import assert_close


class Filter(Recurrence):
    """A small linear system with a bias, two signals, one of them shared and complex, and a vector of outputs."""

    lane = Lane.HEAD

    def __init__(self, width):
        super().__init__(width)
        self.A = torch.nn.Parameter(torch.randn(width, 3, 3) / 3)
        self.b = torch.nn.Parameter(torch.randn(width, 3))

    def start(self):
        return {"h": torch.zeros(self.width, 3), "g": torch.zeros(self.width, dtype=torch.complex64)}

    def inputs(self, x):
        both = torch.complex(x[..., 0], x[..., 1])
        return {"x": x, "s": shared(both), "A": constant(self.A), "b": constant(self.b)}

    def step(self, h, g, x, s, A, b):
        h = A @ h + b * (x + 1) + s.imag
        g = (0.5 + 0.4j) * g + s
        return (h, g), torch.stack([h.sum() + g.real, h[0] - x, g.imag])


@pytest.mark.parametrize("time", [1, 2, 127, 128, 129, 300])
@pytest.mark.parametrize("make", [lambda: Filter(2), lambda: recurra.layer("s4d", 3), lambda: recurra.layer("lmu", 3)])
def test_many_chunks(make, time):
    for options in ({}, {"state": True}):
        case = draw(make, torch.float64, batch=2, time=time, **options)
        expected, got = gradients(case, "compiled"), gradients(case, "convolution")
        for key, value in expected.items():
            assert_close(f"T={time} {options}: {key}", got[key], value)


def test_rows_that_are_no_convolution_are_run_by_the_loop():
    layer = recurra.layer("lru", 6).double()
    x = torch.randn(5, 40, 6, dtype=torch.float64)
    resets = torch.zeros(5, 40, dtype=torch.bool)
    resets[1, 7] = True
    lengths = torch.tensor([40, 40, 13, 40, 0])
    x[3, 20, 2] = float("inf")
    y, state = layer(x, resets=resets, lengths=lengths, engine="convolution")
    expected, end = layer(x, resets=resets, lengths=lengths, engine="loop")
    assert_close("y", y, expected)
    assert_close("h", state["h"], end["h"])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("min-gru", "change in time"),
        ("gru", "not affine in the state"),
        ("linear-attention", "not a fixed combination"),
    ],
)
def test_refusals_say_why(name, words):
    with pytest.raises(recurra.EngineRefused, match=words):
        recurra.layer(name, 8)(torch.randn(1, 4, 8), engine="convolution")


@pytest.mark.parametrize("least", [1, 2, 3, 100, 8193, 40000])
def test_lengths_of_transforms(least):
    size = convolution._fast_length(least)
    assert least <= size < max(2, 1.4 * least)
    for prime in (2, 3, 5):
        while size % prime == 0:
            size //= prime
    assert size == 1
