"""Mamba-3 against its published equations: keys and queries turned by the sum of all angles so far, real numbers."""

import math

import pytest
import torch
from torch.nn.functional import sigmoid, silu, softplus

import recurra
from recurra.testing.tolerances import assert_close

D, B, T, N = 8, 2, 11, 10


def turned(x, angle):
    """Neighbouring channels of x [..., N] turned by angle [..., N/2]."""
    a, b = x[..., 0::2], x[..., 1::2]
    c, s = angle.cos(), angle.sin()
    return torch.stack([a * c - b * s, a * s + b * c], -1).flatten(-2)


def keys(layer, part, weight, bias, rank, groups):
    part = part.reshape(B, T, rank, groups, N)
    part = part / (part.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight
    group = [h * groups // layer.heads for h in range(layer.heads)]
    return torch.stack([part[:, :, :, g] + bias[h] for h, g in enumerate(group)], 2)  # [B, T, H, R, N]


def written_out(layer, x, rank, groups):
    z, u, k, q, dt, decay, share, angle = layer.to_inner(x).split(layer.split, -1)
    z, u = (t.unflatten(-1, (layer.heads, -1))[..., None, :] for t in (z, u))
    k = keys(layer, k, layer.norm_weight[0], layer.key_bias, rank, groups)
    q = keys(layer, q, layer.norm_weight[1], layer.query_bias, rank, groups)
    dt = softplus(dt + layer.dt_bias)
    a = torch.exp(-torch.where(decay > 0, decay + 1, 1 / (1 - decay)) * dt)
    v = u * layer.up if rank > 1 else u
    z = z * layer.gate if rank > 1 else z
    total = (math.pi * angle.tanh()[:, :, None] * dt[..., None]).cumsum(1)
    total = torch.cat([total, total.new_zeros(*total.shape[:3], N // 2 - total.shape[3])], -1)[..., None, :]
    q, k = turned(q, total), turned(k, total)
    S, before, outputs = 0, 0, []
    for t in range(T):
        now = (v[:, t, ..., :, None] * k[:, t, ..., None, :]).sum(2)  # [B, H, P, N]
        kept, step, new = (r[:, t, :, None, None] for r in (a, dt, sigmoid(share)))
        S = kept * S + (1 - new) * step * kept * before + new * step * now
        o = (S[:, :, None] * q[:, t, ..., None, :]).sum(-1) + layer.D[:, None, None] * v[:, t]
        o = o * silu(z[:, t])
        outputs.append((o * layer.down if rank > 1 else o).sum(2))
        before = now
    return layer.to_output(torch.stack(outputs, 1).flatten(2))


@pytest.mark.parametrize(("rank", "groups", "rotary"), [(1, 1, 0.5), (1, 2, 1.0), (3, 2, 0.5)])
def test_the_papers_equations(rank, groups, rotary):
    options = {"state_size": N, "head_size": 4, "rank": rank, "groups": groups, "rotary": rotary}
    layer = recurra.layer("mamba3", D, **options).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    x = torch.randn(B, T, D, dtype=torch.float64)
    assert_close("y", layer(x)[0], written_out(layer, x, rank, groups))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"state_size": 5}, "state_size is 5; expected an even number"),
        ({"rank": 0}, "rank is 0; expected a positive int"),
        ({"rotary": 1.5}, "rotary is 1.5; expected a number of at least 0"),
        ({"groups": 3}, "groups is 3; expected a divisor of the number of heads"),
    ],
)
def test_wrong_options_are_named(options, words):
    with pytest.raises(recurra.InputError, match=words):
        recurra.layer("mamba3", D, **options)
