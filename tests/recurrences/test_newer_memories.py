"""Matrix memories of recent years against their papers' equations, whole layers, time step by time step."""

import pytest
import torch
from torch.nn.functional import conv1d, layer_norm, linear, silu, softplus

import recurra
from recurra.testing.tolerances import assert_close

D, B, T = 8, 2, 9


def convolved(layer, x):
    """The layer's short convolution of x [B, T, channels], followed by SiLU."""
    weight = layer.conv_weight[:, None]
    bias = getattr(layer, "conv_bias", None)
    return silu(conv1d(x.mT, weight, bias, padding=weight.shape[-1] - 1, groups=len(weight))[..., :T].mT)


def heads(x, n):
    return x.unflatten(-1, (n, -1))


def unit(x):
    return x / (x.square().sum(-1, keepdim=True) + 1e-6).sqrt()


def normed(o, weight, eps=1e-5):
    return o / (o.square().mean(-1, keepdim=True) + eps).sqrt() * weight


def run(memory, step, *inputs):
    """o [B, T, ...] of step(memory, inputs of one time step) -> memory, o."""
    outputs = []
    for now in zip(*(t.unbind(1) for t in inputs), strict=True):
        memory, o = step(memory, *now)
        outputs.append(o)
    return torch.stack(outputs, 1)


def outer(a, b):
    return a[..., :, None] * b[..., None, :]


def apply(S, x):
    return (S * x[..., None, :]).sum(-1)


def corrected(S, decay, k, erased, value):
    """S with `value` under k in place of what it held under `erased`, after a decay."""
    S = S * decay
    return S - outer(apply(S, erased), k) + outer(value, k)


def with_decays_per_key(layer, x):
    q, k, v = (
        part.unflatten(-1, (-1, layer.size)) for part in convolved(layer, layer.to_qkv(x)).split(layer.parts, -1)
    )
    q, k = (torch.stack([part[:, :, h * k.shape[2] // layer.heads] for h in range(layer.heads)], 2) for part in (q, k))
    rate, dt = layer.A_log.exp()[:, None], heads(layer.to_decay(x) + layer.dt_bias, layer.heads)
    bound = getattr(layer, "bound", None)
    decay = torch.exp(-rate * softplus(dt) if bound is None else bound * torch.sigmoid(rate * dt))
    return unit(q) / q.shape[-1] ** 0.5, unit(k), v, decay


def gated(layer, x, o):
    gate = torch.sigmoid(layer.to_gate(x)).unflatten(-1, (layer.heads, -1))
    return layer.to_output((normed(o, layer.norm_weight) * gate).flatten(2))


def kimi_delta_attention(layer, x):
    beta = torch.sigmoid(layer.to_beta(x))[..., None]

    def step(S, q, k, v, decay, beta):
        S = corrected(S, decay[..., None, :], k, beta * k, beta * v)
        return S, apply(S, q)

    return gated(layer, x, run(0 * layer.start()["S"], step, *with_decays_per_key(layer, x), beta))


def gated_delta_net_2(layer, x):
    b, w = (heads(torch.sigmoid(to(x)), layer.heads) for to in (layer.to_erase, layer.to_write))

    def step(S, q, k, v, decay, b, w):
        S = corrected(S, decay[..., None, :], k, b * k, w * v)
        return S, apply(S, q)

    return gated(layer, x, run(0 * layer.start()["S"], step, *with_decays_per_key(layer, x), b, w))


def comba(layer, x):
    q, k, v = (heads(part, layer.heads) for part in convolved(layer, layer.to_qkv(x)).split(layer.parts, -1))
    p = torch.sigmoid(layer.feedback) * k
    r = unit(q - layer.D * p) / q.shape[-1] ** 0.5
    a, b = layer.to_ab(x).chunk(2, -1)
    decay = torch.exp(-layer.A_log.exp() * softplus(a + layer.dt_bias))[..., None, None]
    beta = torch.sigmoid(b)[..., None]

    def step(S, r, k, p, v, decay, beta):
        S = corrected(S, decay, k, beta * p, beta * v)
        return S, apply(S, r)

    return gated(layer, x, run(0 * layer.start()["S"], step, r, unit(k), unit(p), v, decay, beta))


def gated_slot_attention(layer, x):
    q, k, v = (heads(silu(to(x)), layer.heads) for to in (layer.to_query, layer.to_key, layer.to_value))
    return slots(layer, q, k, v, torch.sigmoid(heads(layer.to_forget(x), layer.heads)) ** (1 / layer.temperature))


def slots(layer, q, k, v, f):
    """Keys and values in slots that keep the shares f of what they have, read by a softmax."""

    def step(memory, q, k, v, f):
        K, V = memory
        K = f[..., None] * K + outer(1 - f, k)
        V = f[..., None] * V + outer(1 - f, v)
        return (K, V), apply(V.mT, torch.softmax(apply(K, q), -1))

    empty = 0 * layer.start()["K"]
    return layer.to_output(normed(silu(run((empty, empty), step, q, k, v, f).flatten(2)), layer.norm.weight))


def light_net(layer, x):
    q, k, v = (heads(to(x), layer.heads) for to in (layer.to_query, layer.to_key, layer.to_value))
    weights = torch.exp(k[:, None] - k.logcumsumexp(1)[:, :, None])  # of s at t: [B, t, s, H, K]
    weights = torch.where(torch.ones(T, T).tril().bool()[..., None, None], weights, 0)
    o = torch.einsum("bthk,btshk,bshv->bthv", silu(q), weights, v) / q.shape[-1] ** 0.5
    return layer.to_output(normed(o.flatten(2), layer.norm_weight) * silu(layer.to_gate[1](layer.to_gate[0](x))))


def lightning_attention(layer, x):
    q, k, v = silu(layer.to_qkv(x)).unflatten(-1, (layer.heads, 3, -1)).unbind(3)
    slopes = [2 ** (-8 * (h + 1) / layer.heads) * (1 - layer.depth + 1e-5) for h in range(layer.heads)]
    age = torch.arange(T)[:, None] - torch.arange(T)
    weights = torch.where(age >= 0, torch.exp(-torch.tensor(slopes, dtype=x.dtype)[:, None, None] * age), 0)
    o = torch.einsum("bthk,bshk,hts,bshv->bthv", q, k, weights, v).flatten(2)
    return layer.to_output(torch.sigmoid(layer.to_gate(x)) * normed(o, layer.norm.weight, layer.norm.eps))


def rwkv6(layer, x):
    before = torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], 1) - x
    low = torch.tanh(layer.to_mix(x + before * layer.mix[0])).chunk(5, -1)
    r, w, k, v, g = (x + before * (layer.mix[i + 1] + low[i] @ layer.from_mix[i]) for i in range(5))
    w = layer.to_w[2](torch.tanh(layer.to_w[0](w)))
    r, k, v, g, w = (heads(t, layer.heads) for t in (layer.to_r(r), layer.to_k(k), layer.to_v(v), layer.to_g(g), w))

    def step(S, r, k, v, w):
        o = apply(S + outer(v, layer.bonus * k), r)
        return S * torch.exp(-torch.exp(w))[..., None, :] + outer(v, k), o

    o = layer_norm(run(0 * layer.start()["S"], step, r, k, v, w), (layer.size,), eps=64e-5)
    return layer.to_output((silu(g) * (o * layer.norm_weight + layer.norm_bias)).flatten(2))


def rwkv5(layer, x):
    before = torch.cat([0 * x[:, :1], x[:, :-1]], 1)
    mixes = (mu * before + (1 - mu) * x for mu in layer.mix)
    maps = layer.to_r, layer.to_k, layer.to_v, layer.to_g
    r, k, v, g = (heads(to(mixed), layer.heads) for to, mixed in zip(maps, mixes, strict=True))
    kept = torch.exp(-torch.exp(layer.decay))

    def step(S, r, k, v):
        o = apply(S + outer(v, layer.bonus * k), r)
        return S * kept[:, None] + outer(v, k), o

    o = run(0 * layer.start()["S"], step, r, k, v)
    y = layer_norm(o, o.shape[-1:], eps=64e-5) * layer.norm_weight + layer.norm_bias
    return layer.to_output((silu(g) * y).flatten(2))


def longhorn(layer, x):
    signal, z = layer.to_inner(x).chunk(2, -1)
    u = convolved(layer, signal)
    rate, k, q = layer.to_selection(u).split(layer.split, -1)
    b = torch.sigmoid(layer.to_rate(rate))

    def step(h, u, b, k, q):
        d = b / (1 + b * k.square().sum(-1, keepdim=True))
        h = h - outer(d, k**2) * h + outer(d * u, k)
        return h, apply(h, q)

    y = run(0 * layer.start()["h"], step, u, b, k, q) + layer.D * u
    return layer.to_output(y * silu(z))


def rodimus(layer, x):
    signal = layer.to_signal(x)
    u = convolved(layer, signal)
    g, tau = softplus(layer.to_take(u)), torch.sigmoid(layer.to_temperature(u))
    k = layer.to_key(u)
    k, q = k / k.norm(dim=-1, keepdim=True) * g**tau, layer.to_query(u) / k.shape[-1] ** 0.5
    v = torch.sigmoid(linear(layer.to_admit[0](signal), layer.to_admit[1].weight, layer.to_admit[1].bias)) * signal

    def step(h, v, k, q, decay):
        h = decay[:, None] * h + outer(v, k)
        return h, apply(h, q)

    y = run(0 * layer.start()["h"], step, v, k, q, torch.exp(-g * tau)) + layer.residual * u
    return layer.to_output(normed(y * silu(layer.to_gate(x)), layer.norm.weight))


def gated_oja(layer, x):
    q, k, v, decay = with_decays_per_key(layer, x)

    def step(S, q, k, v, decay, beta):  # [K, V]
        S = S * decay[..., None, :]
        S = S + outer(beta * (k - apply(S, v)), v)
        return S, apply(S.mT, q)

    beta = torch.sigmoid(layer.to_beta(x))[..., None]
    return gated(layer, x, run(0 * layer.start()["S"], step, q, k, unit(v), decay, beta))


def by_levels(layer, x, kept, written, read):
    """What each time step wrote, by itself, read at each time step t with the share of its level."""
    share = softplus(layer.level_scale * heads(layer.to_levels(x), layer.level_scale.shape[0]))
    S, outputs = [], []
    for t in range(T):
        S = [kept(t, apart) for apart in S] + [written(t)]
        levels = [min((t ^ s).bit_length(), share.shape[-1] - 1) for s in range(t + 1)]
        outputs.append(
            sum(share[:, t, :, level, None] * read(t, apart) for level, apart in zip(levels, S, strict=True))
        )
    return torch.stack(outputs, 1)


def log_linear_mamba2(layer, x):
    h, p, n = layer.shape
    gate, signal, dt = layer.to_inner(x).split(layer.split, -1)
    u, b, c = convolved(layer, signal).split([h * p, n, n], -1)
    u, dt = heads(u, h), softplus(dt + layer.dt_bias)[..., None]
    decay = torch.exp(-layer.A_log.exp()[:, None] * dt)[..., None]
    y = by_levels(
        layer, x, lambda t, S: decay[:, t] * S, lambda t: outer(dt[:, t] * u[:, t], b[:, t, None]),
        lambda t, S: apply(S, c[:, t, None]),
    )  # fmt: skip
    y = ((y + layer.D[:, None] * u) * silu(heads(gate, h))).flatten(2)
    return layer.to_output(normed(y, layer.norm_weight))


def log_linear_gated_delta_net(layer, x):
    h = layer.heads
    q, k, v, z = layer.to_qkvz(x).unflatten(-1, (h, -1)).split([layer.K, layer.K, layer.V, layer.V], -1)
    q, k, v = convolved(layer, torch.cat([part.flatten(2) for part in (q, k, v)], -1)).split(layer.parts, -1)
    q, k, v = unit(heads(q, h)), unit(heads(k, h)), heads(v, h)
    b, a = heads(layer.to_ba(x), h).unbind(-1)
    beta, alpha = (
        torch.sigmoid(b)[..., None],
        torch.exp(-layer.A_log.exp() * softplus(a + layer.dt_bias))[..., None, None],
    )
    o = by_levels(
        layer, x, lambda t, S: corrected(S, alpha[:, t], k[:, t], beta[:, t] * k[:, t], 0 * v[:, t]),
        lambda t: outer(beta[:, t] * v[:, t], k[:, t]), lambda t, S: apply(S, q[:, t]),
    )  # fmt: skip
    return layer.to_output((normed(o, layer.norm_weight) * silu(z)).flatten(2))


def chosen(scores, active):
    """The scores among the `active` largest, by how many are larger; zero for the others."""
    return torch.where((scores[..., None, :] > scores[..., :, None]).sum(-1) < active, scores, 0)


def mixture_of_memories(layer, x):
    """The time steps sent to a memory, taken out of the sequence, go through a Gated DeltaNet of their own."""
    n = layer.heads
    weights = chosen(torch.softmax(x @ layer.router.mT, -1), layer.active)
    weights = torch.cat([weights / weights.sum(-1, keepdim=True), torch.ones(B, T, 1, dtype=x.dtype)], -1)
    k, v, a, b = heads(layer.to_memories(x), n).unflatten(-1, (layer.memories, -1)).split([D // n, D // n, 1, 1], -1)
    q, o = heads(layer.to_query(x), n), torch.zeros(B, T, n, D // n, dtype=x.dtype)
    alpha = torch.exp(-layer.A_log.exp()[:, None] * softplus(a[..., 0] + layer.dt_bias[:, None]))
    for row, m in torch.cartesian_prod(torch.arange(B), torch.arange(layer.memories)).tolist():
        sent = weights[row, :, m].nonzero()[:, 0]
        qkv = torch.cat([q[row, sent], k[row, sent, :, m], v[row, sent, :, m]], -1)
        padded = torch.cat([torch.zeros(layer.kernel - 1, *qkv.shape[1:], dtype=x.dtype), qkv])
        mixed = silu(sum(padded[i : i + len(sent)] * layer.conv_weight[:, i] for i in range(layer.kernel)))
        S = torch.zeros(n, D // n, D // n, dtype=x.dtype)
        for t, (q_t, k_t, v_t) in zip(sent, zip(*mixed.chunk(3, -1), strict=True), strict=True):
            beta = torch.sigmoid(b[row, t, :, m])
            S = corrected(S, alpha[row, t, :, m, None, None], unit(k_t), beta * unit(k_t), beta * v_t)
            o[row, t] += weights[row, t, m] * apply(S, unit(q_t)) / (D // n) ** 0.5
    return layer.to_output((normed(o, layer.norm_weight) * silu(heads(layer.to_gate(x), n))).flatten(2))


def raven(layer, x):
    q, k, v = (heads(silu(to(x)), layer.heads) for to in (layer.to_query, layer.to_key, layer.to_value))
    q, k = normed(q, layer.query_weight), normed(k, layer.key_weight)
    routes = chosen(torch.sigmoid(torch.einsum("btd,hmd->bthm", x, layer.router)), layer.active)
    decay = layer.A_log.exp() * softplus(layer.to_decay(x) + layer.dt_bias)
    f = torch.exp(-decay[..., None] * routes / (routes.sum(-1, keepdim=True) + 1e-9))
    return slots(layer, q, k, v, f)


EQUATIONS = {
    "mixture-of-memories": (mixture_of_memories, {"heads": 2, "memories": 3, "active": 2, "kernel": 3}),
    "raven": (raven, {"heads": 2, "slots": 5, "active": 2}),
    "log-linear-mamba2": (log_linear_mamba2, {"levels": 4, "head_size": 4, "state_size": 3}),
    "log-linear-gated-delta-net": (log_linear_gated_delta_net, {"levels": 4, "heads": 2}),
    "kimi-delta-attention": (kimi_delta_attention, {"heads": 2}),
    "kimi-delta-attention, bounded": (kimi_delta_attention, {"heads": 2, "full_rank": True, "lower_bound": -3.0}),
    "kimi-delta-attention, shared keys": (kimi_delta_attention, {"heads": 6, "key_heads": 2, "size": 3}),
    "gated-delta-net-2": (gated_delta_net_2, {"heads": 2, "kernel": 3}),
    "gated-oja": (gated_oja, {"heads": 2}),
    "rwkv5": (rwkv5, {"heads": 2}),
    "comba": (comba, {"heads": 2, "correction": 0.5}),
    "gated-slot-attention": (gated_slot_attention, {"heads": 2, "slots": 3}),
    "light-net": (light_net, {"heads": 2, "rank": 3}),
    "lightning-attention": (lightning_attention, {"heads": 2, "size": 3, "depth": 0.5}),
    "rwkv6": (rwkv6, {"heads": 2, "mix_rank": 3, "decay_rank": 5}),
    "longhorn": (longhorn, {"state_size": 5, "rank": 3}),
    "rodimus": (rodimus, {"state_size": 5, "rank": 3}),
}


@pytest.mark.parametrize("name", EQUATIONS)
def test_the_papers_equations(name):
    written_out, options = EQUATIONS[name]
    layer = recurra.layer(name.split(",")[0], D, **options).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    x = torch.randn(B, T, D, dtype=torch.float64)
    assert_close(name, layer(x)[0], written_out(layer, x))


def test_equal_gates_lead_back_to_kimi_delta_attention():
    wide, narrow = (recurra.layer(name, D, heads=2).double() for name in ("gated-delta-net-2", "kimi-delta-attention"))
    narrow.load_state_dict({name: t for name, t in wide.state_dict().items() if name in narrow.state_dict()}, False)
    with torch.no_grad():
        for gate in (wide.to_erase, wide.to_write):
            gate.weight.copy_(narrow.to_beta.weight.repeat_interleave(D // 2, 0))
    x = torch.randn(B, T, D, dtype=torch.float64)
    assert_close("y", wide(x)[0], narrow(x)[0])


def test_negative_eigenvalues_erase_up_to_twice_as_much():
    for name, rate in (("kimi-delta-attention", "beta"), ("gated-delta-net-2", "erase")):
        layer = recurra.layer(name, D, heads=2, negative_eigenvalues=True)
        found = layer.problem(100 * torch.randn(4, 50, D)).inputs[rate].tensor
        assert found.max() > 1.9
        assert found.min() < 0.1
