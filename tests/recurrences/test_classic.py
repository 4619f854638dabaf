"""Classic cells that nobody else's package holds, against their papers' equations written out over the whole batch."""

import pytest
import torch
from torch.nn.functional import linear

import recurra
from recurra.recurrences.odyssey_lstm import VARIANTS
from recurra.testing.tolerances import assert_close

D, B, T = 5, 3, 9
sigmoid, tanh = torch.sigmoid, torch.tanh


def over_time(step, *states):
    """Outputs of `step(t, *states) -> (output, *states)`, one after the other."""
    outputs = []
    for t in range(T):
        y, *states = step(t, *states)
        outputs.append(y)
    return torch.stack(outputs, 1)


def zeros(*sizes):
    return [torch.zeros(B, size, dtype=torch.float64) for size in sizes]


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
