"""Classic cells that nobody else's package holds, against their papers' equations written out over the whole batch."""

import pytest
import torch
from torch.nn.functional import linear, softplus

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


def hyper_lstm(layer, x):
    """Gate by gate, row by row of the weights."""
    size, units = layer.hidden, layer.hyper
    features = layer.scales.shape[-1]
    V, v = layer.features.unflatten(0, (3, 4, features)), layer.features_bias.unflatten(0, (3, 4, features))

    def normed(a, row):
        if not layer.norm:
            return a
        a = (a - a.mean(-1, keepdim=True)) / (a.var(-1, keepdim=True, correction=0) + layer.eps).sqrt()
        return a * layer.gain[row] + layer.shift[row]

    def step(t, h, c, e, m):
        gates = layer.to_small(x[:, t]) + torch.cat([e, h], -1) @ layer.small.T
        i, f, g, o = gates.chunk(4, -1)
        m = sigmoid(f) * m + sigmoid(i) * tanh(g)
        e = sigmoid(o) * tanh(m)
        found = []
        for k in range(4):
            d_h, d_x, d_b = ((e @ V[j, k].T + v[j, k]) @ layer.scales[j, k].T for j in range(3))
            W_h, W_x = layer.recurrent[k * size : (k + 1) * size], layer.to_gates.weight[k * size : (k + 1) * size]
            found.append(normed(d_h * (h @ W_h.T) + d_x * (x[:, t] @ W_x.T) + d_b + layer.bias[k], k))
        i, f, g, o = found
        c = sigmoid(f) * c + sigmoid(i) * tanh(g)
        h = sigmoid(o) * tanh(normed(c, 4))
        return h, h, c, e, m

    return over_time(step, *zeros(size, size, units, units))


def phased_lstm(layer, x):
    into, tau, r = layer.to_gates(x), torch.exp(layer.log_period), layer.open
    p_i, p_f, p_o = layer.peepholes

    def step(t, h, c):
        phi = torch.remainder(t - layer.shift, tau) / tau
        k = [2 * a / r if a < r / 2 else 2 - 2 * a / r if a < r else layer.leak * a for a in phi]
        k = torch.stack(k)
        i, f, g, o = (into[:, t] + h @ layer.recurrent.T).chunk(4, -1)
        new = sigmoid(f + p_f * c) * c + sigmoid(i + p_i * c) * tanh(g)
        out = sigmoid(o + p_o * new) * tanh(new)
        c, h = k * new + (1 - k) * c, k * out + (1 - k) * h
        return h, h, c

    return over_time(step, *zeros(layer.hidden, layer.hidden))


def clockwork(layer, x):
    """Group by group: each sees itself and the slower ones."""
    into, size = layer.to_gates(x), layer.hidden // layer.groups

    def step(t, h):
        new = h.clone()
        for g in range(layer.groups):
            rows = slice(g * size, (g + 1) * size)
            if t % 2**g == 0:
                new[:, rows] = tanh(into[:, t, rows] + h[:, g * size :] @ layer.recurrent[rows, g * size :].T)
        return new, new

    return over_time(step, *zeros(layer.hidden))


def urn(layer, x):
    turns = layer.to_turn(x).unflatten(-1, (layer.heads, -1))

    def step(t, h):
        A = torch.zeros(B, layer.heads, layer.size, layer.size, dtype=torch.float64)
        places = [(i, j) for i in range(layer.size) for j in range(i + 1, layer.size)]
        for n, (i, j) in enumerate(places):
            A[..., i, j], A[..., j, i] = turns[:, t, :, n], -turns[:, t, :, n]
        h = torch.einsum("bhij,bhj->bhi", torch.matrix_exp(A), h)
        return h.flatten(1), h

    return over_time(step, torch.eye(1, layer.size, dtype=torch.float64).expand(B, layer.heads, -1))


def block_lrnn(layer, x):
    """One block-diagonal matrix for all heads."""

    def step(t, h):
        blocks = layer.to_transition(x[:, t]).unflatten(-1, (layer.heads, layer.size, layer.size))
        A = torch.stack([torch.block_diag(*row) for row in blocks])
        norms = (A.abs() ** layer.p).sum(1, keepdim=True) ** (1 / layer.p)
        h = torch.einsum("bij,bj->bi", A / torch.maximum(norms, torch.ones(())), h) + layer.to_input(x[:, t])
        return h, h

    return over_time(step, *zeros(layer.heads * layer.size))


def stack_rnn(layer, x):
    """The new stack as a sum over actions, place by place."""
    depth = layer.depth

    def step(t, h, s):
        h = tanh(layer.to_hidden(x[:, t]) + torch.cat([h, s[:, 0]], -1) @ layer.recurrent.T)
        acts = h @ layer.act.T + layer.bias
        push, pop, leave = torch.softmax(acts[:, :3], -1)[..., None].unbind(1)
        above = [sigmoid(acts[:, 3:]), *s.unbind(1)]
        below = [*s.unbind(1)[1:], torch.zeros_like(s[:, 0])]
        s = torch.stack([push * above[i] + pop * below[i] + leave * s[:, i] for i in range(depth)], 1)
        return h, h, s

    return over_time(step, *zeros(layer.hidden), torch.zeros(B, depth, layer.cell, dtype=torch.float64))


def tape_rnn(layer, x):
    """The new tape cell by cell."""

    def step(t, h, m):
        h = tanh(layer.to_hidden(x[:, t]) + torch.cat([h, m[:, 0]], -1) @ layer.recurrent.T)
        acts = h @ layer.act.T + layer.bias
        shares = torch.softmax(acts[:, :5], -1)
        m = torch.cat([acts[:, None, 5:], m[:, 1:]], 1)
        moves = (0, 1, -1, layer.jump, -layer.jump)
        cells = [
            sum(shares[:, a, None] * m[:, (i + move) % layer.tape] for a, move in enumerate(moves))
            for i in range(layer.tape)
        ]
        return h, h, torch.stack(cells, 1)

    return over_time(step, *zeros(layer.hidden), torch.zeros(B, layer.tape, layer.cell, dtype=torch.float64))


def ntm(layer, x):
    """The paper's four stages of addressing, with circular convolution as a sum over slots."""
    size, slots, slot = layer.hidden, layer.slots, layer.slot

    def address(M, w, k, beta, g, s, gamma):
        likeness = torch.cosine_similarity(tanh(k)[:, None], M, -1, 1e-12)
        content = torch.softmax(softplus(beta) * likeness, -1)
        w = sigmoid(g) * content + (1 - sigmoid(g)) * w
        s = torch.softmax(s, -1)
        w = torch.stack([sum(s[:, d + 1] * w[:, (i - d) % slots] for d in (-1, 0, 1)) for i in range(slots)], -1) ** (
            1 + softplus(gamma)
        )
        return w / w.sum(-1, keepdim=True)

    def step(t, h, c, M, first, second, r):
        i, f, g, o = (layer.to_gates(x[:, t]) + torch.cat([h, r], -1) @ layer.recurrent.T).chunk(4, -1)
        c = sigmoid(f) * c + sigmoid(i) * tanh(g)
        h = sigmoid(o) * tanh(c)
        write, read, erase, add = (h @ layer.control.T + layer.bias).split([slot + 6, slot + 6, slot, slot], -1)
        parts = [slot, 1, 1, 3, 1]
        first = address(M, first, *write.split(parts, -1))
        M = M * (1 - first[..., None] * sigmoid(erase)[:, None]) + first[..., None] * tanh(add)[:, None]
        second = address(M, second, *read.split(parts, -1))
        r = (second[..., None] * M).sum(1)
        return layer.to_output(torch.cat([h, r], -1)), h, c, M, first, second, r

    at = torch.eye(1, slots, dtype=torch.float64).expand(B, -1)
    return over_time(step, *zeros(size, size), layer.memory.expand(B, -1, -1), at, at, *zeros(slot))


def cfc(layer, x):
    V_f, V_g, V_a, V_b = layer.heads.chunk(4)
    b_f, b_g, b_a, b_b = layer.bias.chunk(4)

    def step(t, h):
        s = 1.7159 * tanh(0.666 * (layer.to_backbone(x[:, t]) + h @ layer.recurrent.T))
        gap = 1.0
        w = sigmoid((s @ V_a.T + b_a) * gap + (s @ V_b.T + b_b))
        h = (1 - w) * tanh(s @ V_f.T + b_f) + w * tanh(s @ V_g.T + b_g)
        return h, h

    return over_time(step, *zeros(layer.hidden))


def linoss(layer, x):
    """The implicit scheme by solving for both states at once."""
    dt, a, N = sigmoid(layer.log_step), torch.relu(layer.A), layer.state_size
    one = torch.ones(N, dtype=torch.float64)

    def step(t, y, z):
        force = x[:, t] @ layer.to_force.weight.T
        if layer.scheme == "im":
            system = torch.stack([torch.stack([one, dt * a], -1), torch.stack([-dt, one], -1)], -2)
            z, y = torch.linalg.solve(system, torch.stack([z + dt * force, y], -1)[..., None]).squeeze(-1).unbind(-1)
        else:
            z = z + dt * (force - a * y)
            y = y + dt * z
        return y @ layer.to_output.weight.T + layer.D * x[:, t], y, z

    return over_time(step, *zeros(N, N))


def ema(layer, x):
    """As a convolution with the impulse response, power by power."""
    p, a, N = sigmoid(layer.P), sigmoid(layer.A), layer.P.shape[1]
    kernel = [((1 - p * a) ** t * p * layer.B * layer.C).sum(1) / N**0.5 for t in range(T)]
    y = [sum(kernel[k] * x[:, t - k] for k in range(t + 1)) + layer.D * x[:, t] for t in range(T)]
    y = torch.stack(y, 1)
    return y * sigmoid(y)


def space_time(layer, x):
    """With the whole companion matrix."""
    N = layer.a.shape[1]
    shift = torch.diag(torch.ones(N - 1, dtype=torch.float64), -1).repeat(D, 1, 1)
    last = torch.zeros(N, dtype=torch.float64)
    last[-1] = 1
    A = shift + (layer.a / layer.a.abs().sum(1, keepdim=True))[..., None] * last
    u = layer.to_channels(x)

    def step(t, h):
        h = torch.einsum("dij,bdj->bdi", A, h) + layer.b * u[:, t, :, None]
        v = (h * layer.c).sum(-1)
        return layer.to_output(torch.nn.functional.gelu(v) + layer.d * u[:, t]), h

    return over_time(step, torch.zeros(B, D, N, dtype=torch.float64))


def delayed(x, steps):
    return torch.cat([torch.zeros_like(x[:, :steps]), x], 1)[:, :T]


def pgn(layer, x):
    """Block by block of the weights of each delay."""
    W = layer.to_summary.weight.unflatten(1, (D, layer.span))
    H = sum(delayed(x, k + 1) @ W[:, :, k].T for k in range(layer.span)) + layer.to_summary.bias
    gates = torch.cat([x, H], -1) @ layer.to_gates.weight.T + layer.to_gates.bias
    g, n = sigmoid(gates[..., : layer.hidden]), tanh(gates[..., layer.hidden :])
    return g * H + (1 - g) * n


def gated_conv(layer, x):
    """By PyTorch's own convolution."""
    taps = layer.to_gates.weight.unflatten(1, (D, layer.kernel)).flip(2)
    padded = torch.nn.functional.pad(x.mT, (layer.kernel - 1, 0))
    value, gate = torch.nn.functional.conv1d(padded, taps, layer.to_gates.bias).mT.chunk(2, -1)
    return value * sigmoid(gate)


def s7(layer, x):
    N, u = layer.state_size, x @ layer.to_inner.weight.T
    selected = u @ layer.to_selection.weight.T

    def step(t, h):
        s, b, B_t, C_t, d = selected[:, t].split([N, N, N * D, D * N, D], -1)
        a = 1 - 1 / ((s + layer.base) ** 2 + 0.5)
        h = a * h + torch.einsum("bnd,bd->bn", B_t.unflatten(-1, (N, D)), u[:, t]) + b
        y = torch.einsum("bdn,bn->bd", C_t.unflatten(-1, (D, N)), h) + d * u[:, t]
        return sigmoid(torch.nn.functional.gelu(y) @ layer.to_gate.weight.T) * y, h

    return over_time(step, *zeros(N))


def quantum_lstm(layer, x):
    """The circuits as products of matrices of all qubits, built by Kronecker products."""
    n = layer.qubits
    flip = torch.tensor([[0, 1], [1, 0]], dtype=torch.complex128)
    one, zero = torch.eye(2, dtype=torch.complex128), torch.zeros(2, 2, dtype=torch.complex128)
    up, down = zero.clone(), zero.clone()
    up[0, 0] = down[1, 1] = 1

    def on(matrices):
        whole = torch.ones(1, 1, dtype=torch.complex128)
        for q in range(n):
            whole = torch.kron(whole, matrices.get(q, one))
        return whole

    def turn(q, angle):
        return on({q: torch.cos(angle / 2) * one - 1j * torch.sin(angle / 2) * flip})

    def circuit(v, angles):
        state = torch.zeros(2**n, dtype=torch.complex128)
        state[0] = 1
        for q in range(n):
            state = turn(q, v[q]) @ state
        for layer_angles in angles:
            for q in range(n):
                state = turn(q, layer_angles[q]) @ state
            for q in range(n if n > 2 else n - 1):
                state = (on({q: up}) + on({q: down, (q + 1) % n: flip})) @ state
        return torch.stack([(state.conj() @ on({q: up - down}) @ state).real for q in range(n)])

    def step(t, h, c):
        v = layer.to_angles(x[:, t]) + h @ layer.recurrent.T
        q = torch.stack([torch.stack([circuit(row, layer.angles[:, k]) for row in v]) for k in range(4)])
        i, f, g, o = linear(q, layer.outward, layer.bias)
        c = sigmoid(f) * c + sigmoid(i) * tanh(g)
        h = sigmoid(o) * tanh(c)
        return h, h, c

    return over_time(step, *zeros(layer.hidden, layer.hidden))


EQUATIONS = {
    "pgn": (pgn, [{"hidden": 4, "span": n} for n in (1, 3)]),
    "gated-conv": (gated_conv, [{"hidden": 4, "kernel": n} for n in (1, 2, 3)]),
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
