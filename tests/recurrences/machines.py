"""Equations of stacks, tapes, clocks, oscillators and other cells, written out over a whole batch."""

import torch
from torch.nn.functional import linear, softplus

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


def dnc(layer, x):
    """With the places sorted by how much they are in use, and all weights read and written one by one."""
    slots, W, R = layer.sizes["u"][0], layer.sizes["M"][1], layer.sizes["q"][0]

    def look(M, k, beta):
        return torch.softmax((1 + softplus(beta))[:, None] * alike(M, k[:, None]), -1)

    def alike(a, b):
        return (a * b).sum(-1) / (a.square().sum(-1) * b.square().sum(-1) + 1e-12).sqrt()

    def step(t, h, c, M, u, w, p, L, q, r):
        i, f, g, o = (layer.to_gates(x[:, t]) + torch.cat([h, r.flatten(1)], -1) @ layer.recurrent.T).chunk(4, -1)
        c = sigmoid(f) * c + sigmoid(i) * tanh(g)
        h = sigmoid(o) * tanh(c)
        parts = (h @ layer.control.T + layer.bias).split(layer.parts, -1)
        key, erase, value, beta, share, gate, keys, betas, free, modes = parts
        u = u + (1 - u) * w
        for head in range(R):
            u = u * (1 - sigmoid(free[:, head, None]) * q[:, head])
        order = torch.sort(u, dim=-1, stable=True)
        taken = torch.cumprod(torch.cat([torch.ones(B, 1, dtype=u.dtype), order.values], -1), -1)[:, :-1]
        allocated = torch.zeros_like(u).scatter(1, order.indices, (1 - order.values) * taken)
        content = look(M, key, beta[:, 0])
        w = sigmoid(gate) * (sigmoid(share) * allocated + (1 - sigmoid(share)) * content)
        M = M * (1 - w[..., None] * sigmoid(erase)[:, None]) + w[..., None] * value[:, None]
        new = torch.zeros_like(L)
        for a in range(slots):
            for b in range(slots):
                if a != b:
                    new[:, a, b] = (1 - w[:, a] - w[:, b]) * L[:, a, b] + w[:, a] * p[:, b]
        p = (1 - w.sum(-1, keepdim=True)) * p + w
        back, found, on = torch.softmax(modes.unflatten(-1, (3, R)), 1).unbind(1)
        heads = []
        for head in range(R):
            at = look(M, keys[:, head * W : (head + 1) * W], betas[:, head])
            behind, ahead = (torch.einsum(f"{way},bj->bi", new, q[:, head]) for way in ("bji", "bij"))
            heads.append(back[:, head, None] * behind + found[:, head, None] * at + on[:, head, None] * ahead)
        q = torch.stack(heads, 1)
        r = q @ M
        return layer.to_output(torch.cat([h, r.flatten(1)], -1)), h, c, M, u, w, p, new, q, r

    return over_time(step, *(state.expand(B, *state.shape[1:]).double() for state in layer.initial_state(1).values()))


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
    W = layer.to_summary.weight.unflatten(1, (layer.span, D))
    H = sum(delayed(x, k + 1) @ W[:, k].T for k in range(layer.span)) + layer.to_summary.bias
    gates = torch.cat([x, H], -1) @ layer.to_gates.weight.T + layer.to_gates.bias
    g, n = sigmoid(gates[..., : layer.hidden]), tanh(gates[..., layer.hidden :])
    return g * H + (1 - g) * n


def gated_conv(layer, x):
    """By PyTorch's own convolution."""
    taps = layer.to_gates.weight.unflatten(1, (D, layer.kernel)).flip(2)
    padded = torch.nn.functional.pad(x.mT, (layer.kernel - 1, 0))
    value, gate = torch.nn.functional.conv1d(padded, taps, layer.to_gates.bias).mT.chunk(2, -1)
    return value * sigmoid(gate)


def short_conv(layer, x):
    """By PyTorch's own convolution."""
    B, C, v = layer.to_inner(x).chunk(3, -1)
    padded = torch.nn.functional.pad((B * v).mT, (layer.kernel - 1, 0))
    mixed = torch.nn.functional.conv1d(padded, layer.conv_weight[:, None], layer.conv_bias, groups=D).mT
    return layer.to_output(C * mixed)


def s7(layer, x):
    N, u = layer.state_size, x @ layer.to_inner.weight.T
    selected = u @ torch.cat([layer.to_change.weight, layer.to_reading.weight]).T

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
