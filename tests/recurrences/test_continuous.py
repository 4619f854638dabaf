"""Cells in continuous time against their papers' equations, with time steps of different lengths."""

import pytest
import torch
from machines import B, D, T, over_time, sigmoid, tanh, zeros

import recurra
from recurra.testing.tolerances import assert_close


def ltc(layer, x, elapsed):
    """Neuron by neuron: the charge after a step is what the currents after it have brought."""
    c, g = (torch.nn.functional.softplus(row) for row in layer.neurons[:2])

    def through(kept, u):
        w, m, s, E = kept
        a = torch.nn.functional.softplus(w) * sigmoid(s * (u[..., None] - m))
        return a, E

    def step(t, v):
        for _ in range(layer.unfolds):
            dt = elapsed[:, t, None] / layer.unfolds
            (a, E), (a_x, E_x) = through(layer.from_v, v), through(layer.from_x, x[:, t])
            # c (v' - v) / dt = g (e - v') + sum of a (E - v'), for v'
            closed = c / dt + g + a.sum(1) + a_x.sum(1)
            v = (c / dt * v + g * layer.neurons[2] + (a * E).sum(1) + (a_x * E_x).sum(1)) / closed
        return v, v

    return over_time(step, *zeros(layer.hidden))


def ode_rnn(layer, x, elapsed):
    """By PyTorch's own cell after the way between observations."""
    cell = torch.nn.GRUCell(D, layer.hidden).double()
    zero = torch.zeros_like(layer.bias)
    state = {
        "weight_ih": layer.to_gates.weight,
        "bias_ih": layer.to_gates.bias,
        "weight_hh": layer.recurrent,
        "bias_hh": torch.cat([zero, zero, layer.bias]),
    }

    def slope(h):
        return tanh(h @ layer.inner.T + layer.inner_bias) @ layer.outer.T + layer.outer_bias

    def step(t, h):
        dt = elapsed[:, t, None] / layer.unfolds
        for _ in range(layer.unfolds):
            k1 = dt * slope(h)
            k2 = dt * slope(h + k1 / 2)
            k3 = dt * slope(h + k2 / 2)
            h = h + (k1 + 2 * k2 + 2 * k3 + dt * slope(h + k3)) / 6
        h = torch.func.functional_call(cell, state, (x[:, t], h))
        return h, h

    return over_time(step, *zeros(layer.hidden))


def gru_d(layer, x, elapsed):
    """With the paper's masks, on times that are counted beforehand."""
    m = (~x.isnan()).to(x.dtype)
    since, seen = torch.zeros_like(x), layer.mean.expand(B, -1)
    for t in range(T):
        before = 0 if t == 0 else (1 - m[:, t - 1]) * since[:, t - 1]
        since[:, t] = elapsed[:, t, None] + before
    U, W, V, b = (part.chunk(3) for part in (layer.recurrent, layer.from_filled, *layer.to_gates.parameters()))
    known = x.nan_to_num(0.0)

    def step(t, h, seen):
        fade = torch.exp(-torch.clamp(layer.fade_x[0] * since[:, t] + layer.fade_x[1], min=0))
        filled = m[:, t] * known[:, t] + (1 - m[:, t]) * (fade * seen + (1 - fade) * layer.mean)
        h = torch.exp(-torch.clamp(since[:, t] @ layer.fade_h.T + layer.fade_bias, min=0)) * h
        into = [filled @ W[i].T + m[:, t] @ V[i].T + b[i] for i in range(3)]
        r, z = sigmoid(into[0] + h @ U[0].T), sigmoid(into[1] + h @ U[1].T)
        n = tanh(into[2] + (r * h) @ U[2].T)
        h = (1 - z) * h + z * n
        return h, h, m[:, t] * known[:, t] + (1 - m[:, t]) * seen

    return over_time(step, *zeros(layer.hidden), seen)


EQUATIONS = {
    "ltc": (ltc, {"hidden": 4, "unfolds": 3}),
    "ode-rnn": (ode_rnn, {"hidden": 4, "flow": 5, "unfolds": 2}),
    "gru-d": (gru_d, {"hidden": 4}),
}
HELD = set(EQUATIONS)


@pytest.mark.parametrize("name", EQUATIONS)
def test_cell_is_its_paper(name):
    equations, options = EQUATIONS[name]
    layer = recurra.layer(name, D, **options).double()
    for parameter in layer.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    x, elapsed = torch.randn(B, T, D, dtype=torch.float64), torch.rand(B, T, dtype=torch.float64) + 0.2
    if name == "gru-d":
        x = torch.where(torch.rand(B, T, D) < 0.4, torch.nan, x)
    assert_close("y", layer(x, elapsed=elapsed)[0], equations(layer, x, elapsed))


def test_liquid_neurons_stay_between_what_pulls_them():
    """However long a time step is: v is a mean of where it was, its rest and the signs of synapses."""
    layer = recurra.layer("ltc", D, hidden=6).double()
    y, _ = layer(torch.randn(2, 50, D).double() * 10, elapsed=torch.rand(2, 50).double() * 1e4 + 1e-4)
    assert y.abs().max() <= 1
