"""Memories that may turn their sign: one option under one name, on every gated layer that can have it."""

import pytest
import torch

import recurra
from recurra.registry import _options_of
from recurra.testing.cases import compare, draw

D = 6
OPTION = "negative_eigenvalues"
BEYOND = "preconditioned-gated-delta-net"
"""Its eigenvalues are negative already, by as much as they can be: it refuses the option."""
LAYERS = [name for name, kind in recurra.layers().items() if OPTION in _options_of(kind) and name != BEYOND]
OPTIONS = {"hgrn": {"rotate": False}, "gla": {"heads": 1}, "mamba2": {"state_size": 3}}
GATED = {"gated-delta-net", "mamba", "mamba2", "gla", "hgrn", "hgrn2", "min-gru", "min-lstm", "comba", "delta-net",
         "delta-product", "kimi-delta-attention", "gated-delta-net-2"}  # fmt: skip


def build(name, negative):
    return recurra.layer(name, D, **{OPTION: negative}, **OPTIONS.get(name, {}))


def test_every_gated_layer_has_the_option():
    assert set(LAYERS) >= GATED


def test_a_memory_that_would_grow_is_refused():
    with pytest.raises(recurra.InputError, match=r"negative_eigenvalues is True; expected False: .* would grow"):
        build(BEYOND, True)


@pytest.mark.parametrize("name", LAYERS)
def test_all_engines_agree(name):
    case = draw(lambda: build(name, True), torch.float64, 2, 8, state=True, resets=True, lengths=True)
    for engine, refusal in case.layer.refusals(case.x).items():
        if refusal is None and engine not in ("loop", "convolution"):
            compare(case, engine)


def eigenvalues(layer):
    """Those of the step's Jacobian, at many inputs that drive the gates to both ends."""
    x = 30 * torch.randn(40, 1, layer.width, dtype=torch.float64)
    state = layer.initial_state(40, x)
    name = next(iter(layer.start()))

    def after(h):
        return layer(x, state | {name: h}, engine="loop")[1][name].sum(0)

    shape = state[name][0].numel()
    jacobian = torch.autograd.functional.jacobian(after, state[name])  # [..., B, ...]: rows do not see each other
    # What has underflowed is none to LAPACK either, which may not converge over it.
    jacobian = torch.where(jacobian.abs() < 1e-30, 0, jacobian)
    return torch.linalg.eigvals(jacobian.movedim(state[name].dim() - 1, 0).reshape(40, shape, shape)).real


@pytest.mark.parametrize("name", LAYERS)
def test_signs_turn_with_it_and_only_with_it(name):
    for negative in (True, False):
        layer = build(name, negative).double()
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter += torch.randn_like(parameter)
        found = eigenvalues(layer)
        assert found.max() <= 1 + 1e-9
        assert found.min() >= -1 - 1e-9
        assert (found.min() < -0.5) == negative
        assert negative or found.min() >= -1e-9


@pytest.mark.parametrize("name", ["gla", "hgrn2", "mamba2"])
def test_factors_that_pass_zero_are_not_run_in_chunks(name):
    for negative in (True, False):
        layer = build(name, negative)
        assert (layer.refusals(torch.zeros(1, 2, D))["chunkwise"] is None) == (not negative)
