"""Classic cells that nobody else's package holds, against their papers' equations written out over the whole batch."""

import pytest
import torch
from machines import (
    B,
    D,
    T,
    block_lrnn,
    cfc,
    clockwork,
    dnc,
    ema,
    gated_conv,
    hyper_lstm,
    linoss,
    ntm,
    over_time,
    pgn,
    phased_lstm,
    quantum_lstm,
    s7,
    short_conv,
    sigmoid,
    space_time,
    stack_rnn,
    tanh,
    tape_rnn,
    urn,
    zeros,
)
from torch.nn.functional import linear

import recurra
from recurra.recurrences.odyssey_lstm import VARIANTS
from recurra.recurrences.urn import exponential
from recurra.testing.tolerances import assert_close


def rhn(layer, x):
    n, g = layer.to_gates(x).chunk(2, -1)

    def step(t, s):
        for depth, R in enumerate([layer.recurrent, *layer.deeper]):
            R_n, R_g = R.chunk(2)
            into_n, into_g = (n[:, t], g[:, t]) if depth == 0 else layer.bias[depth - 1].chunk(2)
            gate = sigmoid(into_g + s @ R_g.T)
            s = gate * tanh(into_n + s @ R_n.T) + (1 - gate) * s
        return s, s

    return over_time(step, *zeros(layer.hidden))


def lem(layer, x):
    wx1, wx2, wxz, wxy = layer.to_gates(x).chunk(4, -1)
    v1, v2, vz, vy = layer.recurrent.chunk(4)

    def step(t, y, z):
        d, e = layer.dt * sigmoid(wx1[:, t] + y @ v1.T), layer.dt * sigmoid(wx2[:, t] + y @ v2.T)
        z = (1 - d) * z + d * tanh(wxz[:, t] + y @ vz.T)
        y = (1 - e) * y + e * tanh(wxy[:, t] + z @ vy.T)
        return y, y, z

    return over_time(step, *zeros(layer.hidden, layer.hidden))


def lipschitz(layer, x):
    into, eye = layer.to_gates(x), torch.eye(layer.hidden, dtype=torch.float64)
    A, W = ((1 - layer.beta) * (M + M.T) + layer.beta * (M - M.T) - layer.gamma * eye for M in layer.recurrent.chunk(2))

    def step(t, h):
        h = h + layer.dt * (h @ A.T + tanh(h @ W.T + into[:, t]))
        return h, h

    return over_time(step, *zeros(layer.hidden))


def ur_lstm(layer, x):
    into = layer.to_gates(x)

    def step(t, h, c):
        f, r, u, o = (into[:, t] + h @ layer.recurrent.T).chunk(4, -1)
        f, r = sigmoid(f + layer.spread), sigmoid(r - layer.spread)
        g = 2 * r * f + (1 - 2 * r) * f**2  # as its authors' code has it
        c = g * c + (1 - g) * tanh(u)
        h = sigmoid(o) * tanh(c)
        return h, h, c

    return over_time(step, *zeros(layer.hidden, layer.hidden))


def layer_norm_lstm(layer, x):
    into = layer.to_gates(x)

    def normed(a):
        return (a - a.mean(-1, keepdim=True)) / (a.var(-1, keepdim=True, correction=0) + layer.eps).sqrt()

    def step(t, h, c):
        gates = layer.weight_x * normed(into[:, t]) + layer.weight_h * normed(h @ layer.recurrent.T) + layer.bias
        i, f, g, o = gates.chunk(4, -1)
        c = sigmoid(f) * c + sigmoid(i) * tanh(g)
        h = sigmoid(o) * tanh(layer.weight_c * normed(c) + layer.bias_c)
        return h, h, c

    return over_time(step, *zeros(layer.hidden, layer.hidden))


def odyssey(layer, x):
    """Each variant in the words of the paper's appendix."""
    kind, size = layer.variant, layer.hidden
    (W_z, W_i, W_f, W_o), (R_z, R_i, R_f, R_o) = (w.chunk(4) for w in (layer.to_gates.weight, layer.recurrent))
    (b_z, b_i, b_f, b_o), (p_i, p_f, p_o) = layer.to_gates.bias.chunk(4), layer.peepholes
    if kind == "NP":
        p_i = p_f = p_o = 0
    again = layer.gate_recurrent.T if kind == "FGR" else torch.zeros(3 * size, 3 * size, dtype=torch.float64)

    def step(t, y, c, before):
        now = x[:, t]
        around_i, around_f, around_o = (before @ again).chunk(3, -1)
        z = now @ W_z.T + y @ R_z.T + b_z
        z = z if kind == "NIAF" else tanh(z)
        i = sigmoid(now @ W_i.T + y @ R_i.T + p_i * c + b_i + around_i) if kind != "NIG" else torch.ones_like(z)
        f = sigmoid(now @ W_f.T + y @ R_f.T + p_f * c + b_f + around_f) if kind != "NFG" else torch.ones_like(z)
        f = 1 - i if kind == "CIFG" else f
        c = z * i + c * f
        o = sigmoid(now @ W_o.T + y @ R_o.T + p_o * c + b_o + around_o) if kind != "NOG" else torch.ones_like(z)
        y = (c if kind == "NOAF" else tanh(c)) * o
        return y, y, c, torch.cat([i, f, o], -1)

    return over_time(step, *zeros(size, size, 3 * size))


def sru(layer, x):
    value, gates, (v_f, v_r) = layer.to_value(x), layer.to_gates(x), layer.recurrent.unbind(-1)

    def step(t, c):
        f, r = gates[:, t].chunk(2, -1)
        f, r = sigmoid(f + v_f * c), sigmoid(r + v_r * c)
        c = f * c + (1 - f) * value[:, t]
        return r * c + (1 - r) * x[:, t], c

    return over_time(step, *zeros(D))


def qrnn(layer, x):
    """The convolution by PyTorch's own."""
    kernel = layer.to_gates.in_features // D
    taps = layer.to_gates.weight.unflatten(1, (kernel, D)).movedim(1, 2)
    padded = torch.nn.functional.pad(x.mT, (kernel - 1, 0))
    gates = torch.nn.functional.conv1d(padded, taps, layer.to_gates.bias).mT.chunk(1 + len(layer.pooling), -1)
    z, f, *others = tanh(gates[0]), *map(sigmoid, gates[1:])

    def step(t, c):
        admit = others[1][:, t] if layer.pooling == "ifo" else 1 - f[:, t]
        c = f[:, t] * c + admit * z[:, t]
        return c if layer.pooling == "f" else others[0][:, t] * c, c

    return over_time(step, *zeros(layer.hidden))


def scrn(layer, x):
    P, R = layer.recurrent.split([layer.context, layer.hidden], 1)
    V, U = layer.to_output.weight.split([layer.context, layer.hidden], 1)

    def step(t, s, h):
        s = (1 - layer.alpha) * layer.to_context(x[:, t]) + layer.alpha * s
        h = sigmoid(s @ P.T + layer.to_hidden(x[:, t]) + h @ R.T)
        return h @ U.T + s @ V.T + layer.to_output.bias, s, h

    return over_time(step, *zeros(layer.context, layer.hidden))


def jordan(layer, x):
    def step(t, s):
        h = sigmoid(layer.to_hidden(x[:, t]) + s @ layer.recurrent.T)
        y = sigmoid(linear(h, layer.outward, layer.bias))
        return y, layer.mu * s + y

    return over_time(step, *zeros(layer.output))


def gru_reset_before(layer, x):
    """As Keras has it with reset_after=False, and the paper."""
    into, (U_r, U_z, U_n) = (
        linear(x, layer.weight_ih_l0, layer.bias_ih_l0 + layer.bias_hh_l0),
        layer.weight_hh_l0.chunk(3),
    )

    def step(t, h):
        r, z, n = into[:, t].chunk(3, -1)
        r, z = sigmoid(r + h @ U_r.T), sigmoid(z + h @ U_z.T)
        h = z * h + (1 - z) * tanh(n + (r * h) @ U_n.T)
        return h, h

    return over_time(step, *zeros(layer.hidden))


EQUATIONS = {
    "pgn": (pgn, [{"hidden": 4, "span": n} for n in (1, 3)]),
    "gated-conv": (gated_conv, [{"hidden": 4, "kernel": n} for n in (1, 2, 3)]),
    "short-conv": (short_conv, [{"kernel": n, "bias": n > 1} for n in (1, 2, 3)]),
    "s7": (s7, [{"state_size": 3}]),
    "cfc": (cfc, [{"hidden": 4, "backbone": 3}]),
    "linoss": (linoss, [{"state_size": 4, "scheme": scheme} for scheme in ("im", "imex")]),
    "ema": (ema, [{"state_size": 3}]),
    "space-time": (space_time, [{"order": n} for n in (1, 4)]),
    "quantum-lstm": (quantum_lstm, [{"hidden": 4, "qubits": n, "depth": d} for n, d in ((1, 1), (2, 1), (3, 2))]),
    "hyper-lstm": (hyper_lstm, [{"hidden": 4, "hyper": 3, "features": 2, "norm": norm} for norm in (True, False)]),
    "phased-lstm": (phased_lstm, [{"hidden": 4, "longest": 20.0, "open": 0.6, "leak": 0.1}]),
    "clockwork-rnn": (clockwork, [{"hidden": 6, "groups": groups} for groups in (1, 3)]),
    "urn": (urn, [{"heads": 2, "size": 3}]),
    "block-lrnn": (block_lrnn, [{"heads": 2, "size": 3, "p": 1.5}]),
    "stack-rnn": (stack_rnn, [{"hidden": 4, "depth": 3, "cell": 2}]),
    "tape-rnn": (tape_rnn, [{"hidden": 4, "tape": 5, "cell": 2, "jump": 2}]),
    "ntm": (ntm, [{"hidden": 4, "slots": 5, "slot": 3}]),
    "dnc": (dnc, [{"hidden": 4, "slots": 5, "slot": 3, "heads": n} for n in (1, 2)]),
    "rhn": (rhn, [{"hidden": 4, "depth": 3}, {"depth": 1}]),
    "lem": (lem, [{"hidden": 4, "dt": 0.7}]),
    "lipschitz-rnn": (lipschitz, [{"hidden": 4, "dt": 0.3, "beta": 0.6, "gamma": 0.2}]),
    "ur-lstm": (ur_lstm, [{"hidden": 4}]),
    "layer-norm-lstm": (layer_norm_lstm, [{"hidden": 4, "eps": 0.1}]),
    "odyssey-lstm": (odyssey, [{"hidden": 4, "variant": variant} for variant in VARIANTS]),
    "sru": (sru, [{}]),
    "qrnn": (qrnn, [{"hidden": 4, "kernel": 3, "pooling": pooling} for pooling in ("f", "fo", "ifo")]),
    "scrn": (scrn, [{"hidden": 4, "context": 3, "alpha": 0.8}]),
    "jordan": (jordan, [{"hidden": 4, "output": 3, "mu": 0.3}]),
    "gru": (gru_reset_before, [{"hidden": 4, "reset": "before"}]),
}
HELD = set(EQUATIONS)


@pytest.mark.parametrize(
    ("name", "options"),
    [(name, options) for name, (_, ways) in EQUATIONS.items() for options in ways],
    ids=lambda value: value if isinstance(value, str) else "-".join(map(str, value.values())),
)
def test_cell_is_its_paper(name, options):
    equations, _ = EQUATIONS[name]
    layer = recurra.layer(name, D, **options).double()
    for parameter in layer.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    x = torch.randn(B, T, D, dtype=torch.float64)
    assert_close("y", layer(x)[0], equations(layer, x))


def test_what_reaches_back_far_starts_so():
    """JANET's forget gates by its horizon, the UR-LSTM's over all time scales, RHN's gates mostly carrying."""
    keep = sigmoid(recurra.layer("janet", 4, hidden=500, horizon=50).to_gates.bias[:500])
    assert 0.5 <= keep.min() < 0.7
    assert 0.97 < keep.max() <= 1 - 1 / 50
    spread = sigmoid(recurra.layer("ur-lstm", 4, hidden=500).spread)
    assert abs(spread.mean() - 0.5) < 0.06
    assert spread.min() < 0.02
    assert (recurra.layer("rhn", 4, depth=2).bias[:, 4:] == -2).all()


def test_a_hyper_lstm_whose_scales_are_one_is_an_lstm():
    layer, lstm = recurra.layer("hyper-lstm", D, hidden=4, hyper=3, features=2, norm=False), torch.nn.LSTM(D, 4)
    with torch.no_grad():
        layer.features.zero_()
        layer.features_bias.fill_(1)
        layer.scales[:2], layer.scales[2] = 1 / 2, 0
        layer.to_gates.weight.copy_(lstm.weight_ih_l0)
        layer.recurrent.copy_(lstm.weight_hh_l0)
        layer.bias.copy_((lstm.bias_ih_l0 + lstm.bias_hh_l0).unflatten(0, (4, -1)))
    x = torch.randn(B, T, D)
    assert_close("y", layer(x)[0], lstm(x.transpose(0, 1))[0].transpose(0, 1))


def test_a_turning_state_keeps_its_norm():
    """Over ten thousand time steps, and as the product of its matrices in any grouping."""
    layer = recurra.layer("urn", D, heads=2, size=4).double()
    y, _ = layer(torch.randn(1, 10_000, D, dtype=torch.float64))
    norms = y.unflatten(-1, (2, -1)).norm(dim=-1)
    assert (norms - 1).abs().max() < 1e-10
    x = torch.randn(2, 300, D, dtype=torch.float64)
    assert_close("scan", layer(x, engine="scan")[0], layer(x, engine="loop")[0])


@pytest.mark.parametrize("size", [0, 1e-3, 0.5, 0.51, 3, 100, 4000, 5000])
def test_exponentials_of_turns_of_every_size(size):
    """Those of PyTorch, which looks at numbers to find out how many products it takes; NaN beyond 4,096."""
    A = torch.randn(5, 5, dtype=torch.float64)
    A = A - A.T
    A = (A * (size / A.abs().sum(0).amax())).requires_grad_()
    weight, got, expected = torch.randn(5, 5), exponential(A), torch.matrix_exp(A)
    if size > 4096:
        assert got.isnan().all()
        return
    assert_close("value", got, expected)
    slopes = [torch.autograd.grad((U * weight).sum(), A)[0] for U in (got, expected)]
    assert_close("gradient", *slopes)


def test_a_stack_gives_back_the_last_first():
    """Pushed three times and popped three times, with actions that are all but certain."""
    layer = recurra.layer("stack-rnn", 5, hidden=5, depth=4, cell=2).double()
    with torch.no_grad():
        layer.to_hidden.weight.copy_(torch.eye(5) * 20)
        layer.to_hidden.bias.zero_()
        layer.recurrent.zero_()
        layer.bias.zero_()
        layer.act.zero_()
        layer.act[0, 0] = layer.act[1, 1] = 50  # channel 0 pushes, channel 1 pops
        layer.act[3:, 2:4] = torch.eye(2) * 3  # channels 2 and 3 are what is pushed
    state, seen = None, []
    for push, value in ((1, (1, 0)), (1, (0, 1)), (1, (1, 1)), (0, (0, 0)), (0, (0, 0))):
        x = torch.tensor([[push, 1 - push, *value, 0]], dtype=torch.float64)
        _, state = layer.advance(x, state)
        seen.append((state["s"][0, 0] > 0.7).int().tolist())
    assert seen == [[1, 0], [0, 1], [1, 1], [0, 1], [1, 0]]


def test_an_oscillator_keeps_its_energy_or_loses_it():
    """Without forcing: imex stays within bounds that do not shrink, im comes to rest."""
    for scheme in ("imex", "im"):
        layer = recurra.layer("linoss", 2, state_size=2, scheme=scheme).double()
        with torch.no_grad():
            layer.A.fill_(0.8)
            layer.log_step.zero_()
        state = {name: torch.ones(1, 2, dtype=torch.float64) for name in ("y", "z")}
        _, after = layer(torch.zeros(1, 4000, 2, dtype=torch.float64), state)
        energy = (after["z"] ** 2 + 0.8 * after["y"] ** 2).sum()
        assert 1 < energy < 8 if scheme == "imex" else energy < 1e-12
