"""The matrices of state spaces: what their bases project on, and what a state holds by them."""

import math

import pytest
import torch
from test_state_spaces import dense

import recurra
from recurra.recurrences.hippo import BASES, basis, legs, legs_modes, legs_normal, low_rank, normal_modes
from recurra.testing.tolerances import assert_close


def test_hippo_legs_projects_on_legendre_polynomials():
    """With the time scaled away, A and B are those under which the coefficients of t^p stay in proportion to t^p.

    The coefficient of u(s) = s^p in the n-th normalised polynomial over [0, t] is t^p c_n; LegS says that
    t dh/dt = A h + B u, so that (p I - A) c = B for all p.
    """
    n = 6
    A, b = legs(n)
    s, weight = legendre_points(40)
    for p in range(4):
        c = torch.stack([(weight * math.sqrt(2 * k + 1) * shifted_legendre(k, s) * s**p).sum() for k in range(n)])
        assert_close(f"coefficients of s^{p}", (p * torch.eye(n, dtype=A.dtype) - A) @ c, b)


def shifted_legendre(k, s):
    """P_k(2s - 1) for s in [0, 1]."""
    return sum((-1) ** (k + j) * math.comb(k, j) * math.comb(k + j, j) * s**j for j in range(k + 1))


def legendre_points(count):
    """Points and weights that integrate polynomials over [0, 1] exactly, by the eigenvalues of their recurrence."""
    i = torch.arange(1, count, dtype=torch.float64)
    beta = i / torch.sqrt(4 * i**2 - 1)
    values, vectors = torch.linalg.eigh(torch.diag(beta, 1) + torch.diag(beta, -1))
    return (values + 1) / 2, vectors[0] ** 2


def test_hippo_legs_has_its_normal_part():
    n = 10
    A, b = legs(n)
    p = torch.sqrt(torch.arange(n, dtype=torch.float64) + 0.5)
    normal = legs_normal(n)
    assert_close("A", normal - torch.outer(p, p), A)
    assert_close("B", b, math.sqrt(2) * p)
    assert_close("A A^T", normal @ normal.T, normal.T @ normal)
    assert_close("skew part", normal + normal.T, -torch.eye(n, dtype=normal.dtype))


@pytest.mark.parametrize("n", [2, 8, 64])
def test_modes_are_half_of_the_normal_part(n):
    modes, vectors = legs_modes(n)
    assert (modes.imag > 0).all()
    assert (modes.imag.diff() > 0).all()
    whole, basis = torch.cat([modes, modes.conj()]), torch.cat([vectors, vectors.conj()], 1)
    assert_close("basis", basis.mH @ basis, torch.eye(n, dtype=basis.dtype))
    assert_close("matrix", basis @ torch.diag(whole) @ basis.mH, legs_normal(n).to(basis.dtype))


@pytest.mark.parametrize("name", BASES)
def test_bases_are_normal_but_for_a_low_rank(name):
    n = 10
    (A, b), P = basis(name, n), low_rank(name, n)
    normal = A + P.T @ P
    assert_close("normal", normal @ normal.T, normal.T @ normal)
    modes, vectors = normal_modes(normal)
    assert_close("matrix", 2 * (vectors @ torch.diag(modes) @ vectors.mH).real, normal)
    # What S4 starts with maps u to the same, at a point of the right half-plane.
    layer, s = recurra.layer("s4", 2, state_size=n, basis=name), 0.3 + 2j
    eye = torch.eye(n, dtype=torch.complex128)
    mine, inward, _ = (part[0] for part in dense(layer))
    got = inward.conj() @ torch.linalg.solve(s * eye - mine, inward)
    expected = b.to(eye.dtype) @ torch.linalg.solve(s * eye - A, b.to(eye.dtype))
    assert abs(got - expected) < 1e-3 * abs(expected)


@pytest.mark.parametrize(("name", "window"), [("legs", 6.0), ("lagt", 12.0), ("legt", 2.0), ("fout", 2.0)])
def test_a_state_holds_the_past_in_its_basis(name, window):
    """Read by the functions exp(s A) B of the time s ago, the better the larger the state is."""
    dt, steps = 0.01, 1600
    time = torch.arange(steps, dtype=torch.float64)
    signal = torch.sin(0.02 * time) + 0.5 * torch.cos(0.011 * time)
    if name in ("legs", "lagt"):  # which forget by and by
        signal = signal * torch.exp((time - steps) * dt)
    off = []
    for size in (4, 8, 16):
        layer = recurra.layer("lssl", 1, state_size=size, basis=name, dt_min=dt, dt_max=dt).double()
        h = layer(signal[None, :, None])[1]["h"][0, 0].detach()
        A, b = basis(name, size)
        one, count = torch.matrix_exp(dt * A), int(window / dt)
        seen = [torch.matrix_exp(dt / 2 * A) @ b]
        for _ in range(count - 1):
            seen.append(one @ seen[-1])
        K = torch.stack(seen)
        found = K @ torch.linalg.pinv(dt * K.T @ K, rtol=1e-9) @ h  # one state of `fout` is always zero
        past = signal.flip(0)[:count]
        off.append(float((found - past).norm() / past.norm()))
    assert off[0] > off[1] > off[2], off
    assert off[2] < 0.5 * off[0], off


@pytest.mark.parametrize("delay", [12.5, 25.5, 37.5, 50.0])
def test_lmu_remembers_a_window(delay):
    """Read out by Legendre polynomials at delay / theta, the memory is the signal that long ago."""
    memory, theta, time = 14, 50.0, 400
    layer = recurra.layer("lmu", 1, memory=memory, theta=theta)
    with torch.no_grad():
        layer.to_signal.weight.fill_(1.0)
        layer.to_signal.bias.zero_()
    t = torch.arange(time)
    signal = torch.sin(2 * math.pi * t / 60) + 0.5 * torch.cos(2 * math.pi * t / 37)
    read = torch.tensor([shifted_legendre(i, delay / theta) for i in range(memory)])
    for now in (200, 333, 400):
        _, state = layer(signal[None, :now, None])
        # The hold makes steps of the signal: half-way into one it is a sample, where two meet it is their mean.
        then = now - delay
        long_ago = (signal[math.ceil(then) - 1] + signal[math.floor(then)]) / 2
        assert abs(float((state["m"][0, 0] @ read - long_ago).detach())) < 0.01
