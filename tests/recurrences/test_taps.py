"""Layers that are nothing but taps on what was seen, against sums over time steps and PyTorch's convolutions."""

import pytest
import torch
from torch.nn.functional import conv1d, gelu, glu, pad, prelu, silu

import recurra
from recurra.testing.tolerances import assert_close

D, B, T = 6, 2, 23


def fsmn(layer, x):
    """Tap by tap, over the whole sequence, with zeros around it; then late by the delay."""
    p = torch.relu(x @ layer.to_hidden.weight.T + layer.to_hidden.bias) @ layer.to_memory.weight.T
    stride, late = layer.delay // max(len(layer.ahead), 1), layer.delay

    def at(signal, shift):
        wide = pad(signal, (0, 0, 200, 200))
        return wide[:, 200 + shift : 200 + shift + T]

    y = at(x, -late) + at(p, -late)
    y = y + sum(a * at(p, -late - layer.back_stride * i) for i, a in enumerate(layer.back))
    return y + sum(c * at(p, -late + stride * (j + 1)) for j, c in enumerate(layer.ahead))


def convolved(signal, weight, dilation=1):
    """Depthwise, causal, the newest value by the last of `weight` [channels, taps]."""
    reach = (weight.shape[-1] - 1) * dilation
    return conv1d(pad(signal.mT, (reach, 0)), weight[:, None], dilation=dilation, groups=len(weight)).mT


def gated_fsmn(layer, x):
    """On a line of zeros around the sequence, taps on both sides; then late by the delay."""
    u, v = (silu(to(norm(x))) for norm, to in zip(layer.norm, layer.to_gates, strict=True))
    u, v = (s + convolved(s, weight) for s, weight in zip((u, v), layer.conv_weight, strict=True))
    p = layer.to_memory(torch.relu(layer.to_hidden(u)))
    a, b, c = layer.tap_weight.flip(-1)
    wide, late = pad(p, (0, 0, 99, 99)), layer.ahead
    f = prelu(convolved(wide, a).mT, layer.slopes[0]).mT.roll(-late, 1)
    g = prelu((convolved(f, b, 2) + convolved(wide, c, 2)).mT, layer.slopes[1]).mT.roll(-2 * late, 1)[:, 99 : 99 + T]
    return pad(x + v * (u + g), (0, 0, layer.delay, 0))[:, :T]


def multires(layer, x):
    low, high = layer.filters.flip(-1).unbind(1)
    a, y = x, layer.weights[:, -1] * x
    for level in range(layer.depth):
        y = y + layer.weights[:, level + 1] * convolved(a, high, 2**level)
        a = convolved(a, low, 2**level)
    return glu(layer.to_output(gelu(y + layer.weights[:, 0] * a)), -1)


EQUATIONS = {
    "fsmn": (fsmn, [{"hidden": 4, "back": 3}, {"back": 0}, {"back": 2, "back_stride": 3, "ahead": 2, "ahead_stride": 2},
                    {"back": 0, "ahead": 3}]),
    "gated-fsmn": (gated_fsmn, [{"hidden": 4, "taps": n, "kernel": k} for n, k in ((1, 1), (3, 2), (4, 5))]
                   + [{"taps": n, "ahead": m} for n, m in ((1, 1), (3, 2))]),
    "multires-conv": (multires, [{"depth": n, "kernel": k} for n, k in ((1, 1), (1, 2), (3, 2), (2, 4))]),
}  # fmt: skip
HELD = set(EQUATIONS)


@pytest.mark.parametrize(("name", "options"), [(name, way) for name, (_, ways) in EQUATIONS.items() for way in ways])
def test_taps_are_their_paper(name, options):
    layer = recurra.layer(name, D, **options).double()
    for parameter in layer.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    x = torch.randn(B, T, D, dtype=torch.float64)
    assert_close("y", layer(x)[0], EQUATIONS[name][0](layer, x))


def test_look_ahead_is_the_delay_that_is_said():
    """What comes out at a time step changes with x `delay` steps earlier, and with all that lies ahead of that."""
    layer = recurra.layer("fsmn", D, back=2, back_stride=2, ahead=3, ahead_stride=2).double()
    layer.to_hidden.bias.data.fill_(100)  # so that no unit is shut at any time step
    x = torch.randn(1, T, D, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(layer(x)[0][0, 15].sum(), x)
    assert layer.delay == 6
    assert slope[0].abs().sum(-1).nonzero().flatten().tolist() == [5, 7, 9, 11, 13, 15]


def test_haar_filters_make_means_of_all_lengths():
    """Low filters of halves: after three levels the mean of the last eight values."""
    layer = recurra.layer("multires-conv", 1, depth=3).double()
    with torch.no_grad():
        layer.filters.fill_(0.5)
        layer.filters[:, 1, 1] = -0.5
    x = torch.randn(1, T, 1, dtype=torch.float64)
    with torch.no_grad():
        layer.weights.zero_()
        layer.weights[:, 0] = 1
        expected = glu(layer.to_output(gelu(x[0, -8:].mean()[None])), -1)
        assert_close("mean", layer(x)[0][0, -1], expected)
