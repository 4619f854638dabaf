"""Latent attention against its equations, written out for each time step and head."""

import pytest
import torch

import recurra


def turned(vector, t, base):
    """Channels i and R / 2 + i as one complex number that turns."""
    half = len(vector) // 2
    angles = t * base ** (-torch.arange(half, dtype=vector.dtype) / half)
    pairs = torch.complex(vector[:half], vector[half:]) * torch.polar(torch.ones_like(angles), angles)
    return torch.cat([pairs.real, pairs.imag])


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("base", [None, 50.0])
@torch.no_grad()
def test_equations(base, gated):
    layer = recurra.layer(
        "latent-attention", 9, heads=2, size=3, value_size=5, latent=4, shared=6, base=base, norm_eps=0.1, gated=gated
    ).double()
    layer.norm.weight.normal_()
    x, K = torch.randn(11, 9, dtype=torch.float64), 3
    place = turned if base else lambda vector, t, base: vector
    kept = []
    for t, x_t in enumerate(x):
        c, r = layer.to_latent(x_t).split([4, 6])
        kept.append((layer.norm.weight * c / (c.square().mean() + 0.1).sqrt(), place(r, t, base)))
        heads = []
        for h in range(2):
            q, q_turning = layer.to_query(x_t).chunk(2)[h].split([K, 6])
            made = layer.to_heads.weight.chunk(2)[h]
            scores = [q @ made[:K] @ c + place(q_turning, t, base) @ r for c, r in kept]
            weights = torch.softmax(torch.stack(scores) / 3, 0)  # 3 is the root of K + R
            open_ = torch.sigmoid(layer.to_gate.weight[h] @ x_t) if gated else 1
            heads.append(open_ * sum(w * (made[K:] @ c) for w, (c, _) in zip(weights, kept, strict=True)))
        expected = layer.to_output(torch.cat(heads))
        torch.testing.assert_close(layer(x[None, : t + 1])[0][0, -1], expected)


def test_what_is_kept_is_short():
    layer = recurra.layer("latent-attention", 64, heads=8, latent=10, shared=4)
    _, state = layer(torch.randn(2, 7, 64))
    assert state["keys"].shape == (2, 1, 7, 14)
