"""ATLAS against its paper: inner gradients by hand, Newton-Schulz by singular values, windows by slices."""

import pytest
import torch
from test_delta_rule import convolved, heads, outer, rms_norm, unit
from torch.nn.functional import silu

import recurra
from recurra.testing.laws import LAWS
from recurra.testing.tolerances import assert_close

D, B, T = 8, 3, 11


def newton_schulz(S):
    left, singular, right = torch.linalg.svd(S, full_matrices=False)
    singular = singular / (singular.square().sum(-1, keepdim=True) + 1e-12).sqrt()
    for _ in range(5):
        singular = 3.4445 * singular - 4.7750 * singular**3 + 2.0315 * singular**5
    return left * singular[..., None, :] @ right


def atlas(layer, x):
    n, K, c = layer.heads, layer.keys, layer.window
    qkv = silu(convolved(layer.to_qkv(x), layer.conv_weight))
    q, k, v = heads(qkv[..., : n * K], n), heads(qkv[..., n * K : 2 * n * K], n), heads(qkv[..., 2 * n * K :], n)
    a0, a1, a2 = layer.monomials

    def phi(u):
        return torch.cat([torch.ones_like(u[..., :1]) * a0, a1 * u, (a2 * outer(u, u)).flatten(-2)], -1)

    q, k = phi(unit(q)), phi(unit(k))
    alpha, eta, theta, gamma = torch.sigmoid(layer.to_rates(x)).chunk(4, -1)
    M = [weight.expand(B, *weight.shape) for weight in layer.memory]
    S, out = [torch.zeros_like(weight) for weight in M], []
    for t in range(T):
        slopes = [torch.zeros_like(weight) for weight in M]
        for i in range(max(0, t - c + 1), t + 1):
            reads, hidden = [k[:, i]], []
            for weight in M[:-1]:
                hidden.append((weight @ reads[-1][..., None])[..., 0])
                reads.append(silu(hidden[-1]))
            d = 2 * gamma[:, i, :, None] * ((M[-1] @ reads[-1][..., None])[..., 0] - v[:, i])
            for j in reversed(range(len(M))):
                slopes[j] = slopes[j] + outer(d, reads[j])
                if j:
                    gate = torch.sigmoid(hidden[j - 1])
                    d = (M[j].mT @ d[..., None])[..., 0] * gate * (1 + hidden[j - 1] * (1 - gate))
        S = [theta[:, t, :, None, None] * s + slope for s, slope in zip(S, slopes, strict=True)]
        moves = map(newton_schulz, S) if layer.muon else S
        a, e = alpha[:, t, :, None, None], eta[:, t, :, None, None]
        M = [a * m - e * move for m, move in zip(M, moves, strict=True)]
        y = q[:, t]
        for weight in M[:-1]:
            y = silu((weight @ y[..., None])[..., 0])
        out.append((M[-1] @ y[..., None])[..., 0])
    return layer.to_output(rms_norm(torch.stack(out, 1), layer.norm_weight).flatten(2) * silu(layer.to_gate(x)))


EQUATIONS = [
    ("atlas", atlas, {}),
    ("atlas", atlas, {"window": 3, "muon": False}),
    ("atlas", atlas, {"window": 1, "heads": 1, "features": 2, "depth": 1}),
    ("atlas", atlas, {"window": 4, "features": 3, "depth": 3, "expand": 2, "kernel": 2}),
]
HELD = {name for name, _, _ in EQUATIONS}


@pytest.mark.parametrize(("name", "equations", "options"), EQUATIONS)
def test_layer_is_its_paper(name, equations, options):
    torch.set_default_dtype(torch.float64)
    try:
        layer = recurra.layer(name, D, **options)
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.3)
        x = torch.randn(B, T, D)
        assert_close("y", layer(x)[0], equations(layer, x))
    finally:
        torch.set_default_dtype(torch.float32)


def test_options_keep_the_laws():
    for law in ("same_as_reference", "cut_anywhere", "packed_and_padded"):
        LAWS[law](lambda: recurra.layer("atlas", D, window=3, muon=False), "compiled", torch.float64)
    LAWS["any_shape"](lambda: recurra.layer("atlas", D, window=1, muon=False), "compiled", torch.float64)


def test_newton_schulz_brings_singular_values_near_one():
    from recurra.recurrences.atlas import _orthogonal

    for shape in ((5, 9), (9, 5), (4, 4)):
        singular = torch.linalg.svdvals(_orthogonal(torch.randn(shape, dtype=torch.float64)))
        assert 0.3 < singular.min() <= singular.max() < 1.3


def test_without_muon_and_with_a_window_of_one_it_is_titans():
    """But for the features, and for eta, which multiplies the momentum here and the gradient there."""
    titans, atlas = (
        recurra.layer("titans", D, depth=1),
        recurra.layer("atlas", D, window=1, features=4, depth=1, muon=False),
    )
    with torch.no_grad():
        for layer in (titans, atlas):
            layer.to_rates.weight.zero_()
        for name in ("to_qkv.weight", "conv_weight", "to_gate.weight", "to_output.weight"):
            atlas.get_parameter(name).copy_(titans.get_parameter(name))
        atlas.monomials.copy_(torch.tensor([0.0, 1.0, 0.0]))
        atlas.memory[0].zero_()[..., 1 : 1 + D // 2] = titans.memory[0]
        # Titans starts to learn at 0.1; gamma, which it has not, is 1.
        atlas.to_rates.bias[2:4] = titans.to_rates.bias[4:6]
        atlas.to_rates.bias[6:8] = 100
    x = torch.randn(B, T, D)
    assert_close("y", atlas(x)[0], titans(x)[0])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"window": 0}, "window is 0; expected a positive int"),
        ({"features": 1.5}, "features is 1.5; expected a positive int"),
        ({"muon": 1}, "muon is 1; expected True or False"),
        ({"heads": 3}, "heads is 3; expected a divisor of the width 8"),
        ({"depth": 0}, "depth is 0; expected a positive int"),
        ({"expand": "2"}, "expand is '2'; expected a positive int"),
    ],
)
def test_wrong_options_are_named(options, words):
    with pytest.raises(recurra.InputError, match=words):
        recurra.layer("atlas", D, **options)
