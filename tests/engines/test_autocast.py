"""Under `torch.autocast` products are computed in bfloat16, and steps and states in the type they always have."""

import copy
from functools import partial

import pytest
import torch

import recurra
from recurra.testing.laws import engines_for


def relative(got, expected):
    return float((got.detach().double() - expected.detach().double()).norm() / expected.detach().double().norm())


def rounding(layer, x, exact):
    """What becomes of the output if weights and x are rounded once to bfloat16."""
    layer = copy.deepcopy(layer)
    with torch.no_grad():
        for p in layer.parameters():
            p.copy_(p.bfloat16())
        return relative(layer(x.bfloat16().float())[0], exact)


ENGINES = {"lstm", "s5", "diagonal-gru", "mamba", "gated-delta-net"}
"""Layers that stand for all on engines other than "auto": they run behind the same door."""


@pytest.mark.parametrize("name", recurra.layers())
def test_layers_under_autocast(name):
    make = partial(recurra.layer, name, 16)
    layer, x = make(), torch.randn(2, 6, 16, requires_grad=True)
    exact, state = layer(x)
    engines = engines_for(make, torch.float32) if name in ENGINES else ["auto"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        results = {engine: layer(x, engine=engine) for engine in engines}
    for engine, (y, after) in results.items():
        # A norm over few numbers may make more of a rounding, in some draws.
        assert relative(y, exact) < max(0.03, 4 * rounding(layer, x, exact)), engine
        assert {n: v.dtype for n, v in after.items()} == {n: v.dtype for n, v in state.items()}, engine
        grads = torch.autograd.grad(y.float().square().sum(), [x, *layer.parameters()], allow_unused=True)
        assert all(g is None or (g.dtype is torch.float32 and g.isfinite().all()) for g in grads), engine
