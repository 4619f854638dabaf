"""Attention against formulas written out over all pairs of time steps, and against other people's implementations."""

import pytest
import torch
from torch.nn.functional import conv1d, logsigmoid, pad, scaled_dot_product_attention, silu

import recurra
from recurra.attention.softmax import BLOCK
from recurra.testing.tolerances import assert_close

D, B, T, H = 16, 2, 11, 4


def split(x, heads=H):
    """[B, T, heads K] to [B, heads, T, K]."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def merge(y):
    return y.transpose(1, 2).flatten(2)


def turned(x, position, base=10000.0, part=1.0):
    """x [B, H, T, K] with the first `part` of its channels turned, as complex numbers."""
    half = int(part * x.shape[-1]) // 2
    a, b, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    rate = base ** (-torch.arange(half, dtype=x.dtype) / max(half, 1))
    z = torch.complex(a, b) * torch.polar(torch.ones_like(rate), position[:, None].to(x.dtype) * rate)
    return torch.cat([z.real, z.imag, rest], -1)


def attention(layer, x, part=1.0):
    q, k, v = (
        split(to(x), n)
        for to, n in ((layer.to_query, H), (layer.to_key, layer.key_heads), (layer.to_value, layer.key_heads))
    )
    q, k = turned(q, torch.arange(x.shape[1]), part=part), turned(k, torch.arange(x.shape[1]), part=part)
    k, v = (z.repeat_interleave(H // layer.key_heads, 1) for z in (k, v))
    out = torch.zeros_like(q)
    for t in range(x.shape[1]):
        first = 0 if layer.window is None else max(0, t + 1 - layer.window)
        for h in range(H):
            scores = k[:, h, first : t + 1] @ q[:, h, t, :, None] / (D // H) ** 0.5
            out[:, h, t] = (torch.softmax(scores, 1) * v[:, h, first : t + 1]).sum(1)
    return layer.to_output(merge(out))


def sinks_and_pairs(layer, x):
    """Every pair by its distance, which for what the window has left behind is the window's; q turns for both."""
    q, k, v = (
        split(to(x), n)
        for to, n in ((layer.to_query, H), (layer.to_key, layer.key_heads), (layer.to_value, layer.key_heads))
    )
    k, v = (z.repeat_interleave(H // layer.key_heads, 1) for z in (k, v))
    fixed = layer.persistent.repeat_interleave(H // layer.key_heads, 0)
    out = torch.zeros_like(q)
    for t in range(x.shape[1]):
        seen = [i for i in range(t + 1) if i < layer.sinks or t - i < layer.window]
        distance = torch.tensor([min(t - i, layer.window) for i in seen])
        for h in range(H):
            asked = turned(q[:, h : h + 1, t : t + 1].expand(-1, -1, len(seen), -1), distance)[:, 0]
            scores = (asked * k[:, h, seen]).sum(-1, keepdim=True)
            scores = torch.cat([q[:, h, t] @ fixed[h, 0].T, scores[..., 0]], 1)[..., None] / (D // H) ** 0.5
            values = torch.cat([fixed[h, 1].expand(len(x), -1, -1), v[:, h, seen]], 1)
            out[:, h, t] = (torch.softmax(scores, 1) * values).sum(1)
    return layer.to_output(merge(out))


def local_attention(layer, x):
    return attention(layer, x, part=0.5)


def forgetting_attention(layer, x):
    q, k, v = (split(to(x)) for to in (layer.to_query, layer.to_key, layer.to_value))
    c = torch.cumsum(torch.log(torch.sigmoid(layer.to_gate(x))), 1).transpose(1, 2)
    scores = q @ k.mT / (D // H) ** 0.5 + c[..., :, None] - c[..., None, :]
    scores = scores.masked_fill(torch.ones(x.shape[1], x.shape[1]).triu(1).bool(), float("-inf"))
    return layer.to_output(merge(torch.softmax(scores, -1) @ v))


def normed(x, weight):
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * weight[:, None]


def forgetting_attention_pro(layer, x):
    mixed = []
    for to, a in zip((layer.to_key, layer.to_value), torch.sigmoid(layer.to_shift(x)).chunk(2, -1), strict=True):
        now, a = split(to(x)), a.transpose(1, 2)[..., None]
        mixed.append(a * torch.cat([torch.zeros_like(now[:, :, :1]), now[:, :, :-1]], 2) + (1 - a) * now)
    q, (k, v) = normed(split(layer.to_query(x)), layer.norm_weights[0]), mixed
    k, out = normed(k, layer.norm_weights[1]), []
    gates = torch.log(torch.sigmoid(layer.to_gate(x))).transpose(1, 2)
    for t in range(x.shape[1]):
        faded = torch.stack([gates[:, :, i + 1 : t + 1].sum(-1) for i in range(t + 1)], -1)
        scores = torch.einsum("bhk,bhsk->bhs", q[:, :, t], k[:, :, : t + 1]) / (D // H) ** 0.5 + faded
        out.append(torch.einsum("bhs,bhsk->bhk", torch.softmax(scores, -1), v[:, :, : t + 1]))
    y = normed(torch.stack(out, 2), layer.norm_weights[2])
    return layer.to_output(merge(y) * torch.sigmoid(layer.to_output_gate(x)))


def path_attention(layer, x):
    """Every pair by itself: the key goes through all maps between it and the query."""
    q, k, v = (split(to(x)) for to in (layer.to_query, layer.to_key, layer.to_value))
    taps = layer.conv_weight.shape[1]
    w = conv1d(pad(layer.to_w(x).mT, (taps - 1, 0)), layer.conv_weight[:, None], groups=D).mT
    w = split(silu(w))
    w = w / (w.square().sum(-1, keepdim=True) + 1e-6).sqrt()
    beta = 2 * torch.sigmoid(layer.to_beta(x)).mT[..., None, None]
    change = torch.eye(D // H) - beta * w[..., :, None] * w[..., None, :]
    gates = torch.zeros(len(x), H, x.shape[1]) if layer.to_gate is None else logsigmoid(layer.to_gate(x)).mT
    out, keys, faded = [], k[:, :, :0], gates[:, :, :0]
    for t in range(x.shape[1]):
        keys = torch.cat([keys @ change[:, :, t].mT, k[:, :, t : t + 1]], 2)
        faded = torch.cat([faded + gates[:, :, t : t + 1], torch.zeros_like(gates[:, :, :1])], 2)
        weights = torch.softmax((keys @ q[:, :, t, :, None])[..., 0] / (D // H) ** 0.5 + faded, -1)
        out.append((weights[..., None] * v[:, :, : t + 1]).sum(2))
    return layer.to_output(merge(torch.stack(out, 2)))


def wall_attention(layer, x):
    q, k, v = (split(to(x)) for to in (layer.to_query, layer.to_key, layer.to_value))
    f = torch.sigmoid(split(layer.to_decay(x)))
    out, faded = [], k[:, :, :0]
    for t in range(x.shape[1]):
        faded = torch.cat([faded * f[:, :, t : t + 1], k[:, :, t : t + 1]], 2)
        weights = torch.softmax((faded @ q[:, :, t, :, None])[..., 0] / (D // H) ** 0.5, -1)
        out.append((weights[..., None] * v[:, :, : t + 1]).sum(2))
    y = merge(torch.stack(out, 2))
    return layer.to_output(y if layer.to_output_gate is None else torch.sigmoid(layer.to_output_gate(x)) * y)


def delta_former(layer, x):
    """One triangular system over all of time."""
    q, k, v = (split(to(x)) for to in (layer.to_query, layer.to_key, layer.to_value))
    q, k = (turned(z, torch.arange(x.shape[1])) for z in (q, k))
    scores = q @ k.mT / (D // H) ** 0.5
    later = torch.ones(x.shape[1], x.shape[1]).triu().bool()
    strict = torch.softmax(scores.masked_fill(later, float("-inf")), -1).nan_to_num()
    rate = torch.sigmoid(layer.to_rate(x)).mT[..., None]
    u = torch.linalg.inv(torch.eye(x.shape[1]) + rate * strict) @ v
    return layer.to_output(merge(torch.softmax(scores.masked_fill(later.triu(1), float("-inf")), -1) @ u))


def parallax(layer, x):
    """The mean of the values less their covariance with what the probe makes of the keys."""
    group, position = H // layer.key_heads, torch.arange(x.shape[1])
    q, r = (turned(split(to(x)), position) for to in (layer.to_query, layer.to_probe))
    k, v = (split(to(x), layer.key_heads).repeat_interleave(group, 1) for to in (layer.to_key, layer.to_value))
    k, out = turned(k, position), []
    for t in range(x.shape[1]):
        first = 0 if layer.window is None else max(0, t + 1 - layer.window)
        k_t, v_t = k[:, :, first : t + 1], v[:, :, first : t + 1]
        p = torch.softmax((k_t @ q[:, :, t, :, None]) / (D // H) ** 0.5, 2)
        probed, mean = k_t @ r[:, :, t, :, None], (p * v_t).sum(2, keepdim=True)
        covariance = (p * (probed - (p * probed).sum(2, keepdim=True)) * (v_t - mean)).sum(2)
        out.append(mean[:, :, 0] - covariance)
    return layer.to_output(merge(torch.stack(out, 2)))


def gated(layer, m, x):
    """Mega's block over m, as its authors' code has it, for all pairs of time steps."""
    Z, E, time = layer.size, layer.value_size, torch.arange(x.shape[1])
    z, r, h, u = layer.to_inner(m).split([Z, E, D, D], -1)
    q, k = (silu(z) * layer.gain[i] + layer.offset[i] for i in (0, 1))
    a, b = (turned(part.expand(1, 1, len(time), -1), time)[0, 0] for part in layer.far)
    chunk = layer.chunk or len(time)
    causal = (time[:, None] >= time) & (time[:, None] // chunk == time // chunk)
    if layer.softmax:
        weights = torch.softmax((q @ k.mT / Z**0.5 + a @ b.T).masked_fill(~causal, float("-inf")), -1)
    else:
        scores = q @ k.mT / causal.sum(-1, keepdim=True) + a @ b.T
        weights = causal * 0.5 * (1 + torch.erf((scores - 0.5**0.5) / ((0.25 / torch.pi) ** 0.5 * 2**0.5)))
    o = weights @ silu(layer.to_value(x))
    new = silu(h + layer.to_back(o * silu(r)))
    return x + torch.sigmoid(u) * (new - x)


def mega(layer, x):
    p, a = torch.sigmoid(layer.P), torch.sigmoid(layer.A)
    h, out = torch.zeros(len(x), *p.shape), []
    for x_t in x.unbind(1):
        h = (1 - p * a) * h + p * layer.B * x_t[..., None]
        out.append(silu((layer.C * h).sum(-1) / p.shape[1] ** 0.5 + layer.D * x_t))
    return gated(layer, torch.stack(out, 1), x)


def tcnca(layer, x):
    m = x.mT
    for level, dilation in enumerate(layer.dilations):
        signal = m
        for taps in layer.taps[2 * level : 2 * level + 2]:
            weight = taps.weight.unflatten(1, (-1, D)).transpose(1, 2).flip(-1)
            reach = (weight.shape[2] - 1) * dilation
            signal = torch.relu(conv1d(pad(signal, (reach, 0)), weight, taps.bias, dilation=dilation))
        m = torch.relu(m + signal)
    return gated(layer, m.mT, x)


def rat(layer, x):
    group, L, K = H // layer.key_heads, layer.chunk, D // H
    q, k = (split(to(x), layer.key_heads).repeat_interleave(group, 1) for to in (layer.to_query, layer.to_key))
    v, g = split(layer.to_value(x)), torch.sigmoid(split(layer.to_gate(x)))
    chunk = torch.arange(x.shape[1]) // L
    running = []
    for t in range(x.shape[1]):
        new = torch.stack([k[:, :, t], v[:, :, t]])
        before = running[-1] if t % L else torch.zeros_like(new)
        running.append(g[:, :, t] * before + (1 - g[:, :, t]) * new)
    k, v = torch.stack(running, 3)
    q, k = turned(q, chunk), turned(k, chunk)
    out = []
    for t in range(x.shape[1]):
        seen = [*range(L - 1, t // L * L, L), t]
        weights = torch.softmax(torch.einsum("bhk,bhsk->bhs", q[:, :, t], k[:, :, seen]) / K**0.5, -1)
        out.append(torch.einsum("bhs,bhsk->bhk", weights, v[:, :, seen]).flatten(1))
    return layer.to_output(torch.sigmoid(layer.to_output_gate(x)) * torch.stack(out, 1))


EQUATIONS = [
    ("attention", attention, {}),
    ("attention", attention, {"key_heads": 2, "window": 3}),
    ("attention", sinks_and_pairs, {"key_heads": 2, "window": 3, "sinks": 2, "persistent": 3}),
    ("local-attention", local_attention, {"window": 4}),
    ("forgetting-attention", forgetting_attention, {}),
    ("forgetting-attention", forgetting_attention_pro, {"pro": True}),
    ("path-attention", path_attention, {}),
    ("path-attention", path_attention, {"forget": True, "kernel": 1, "rank": 2}),
    ("wall-attention", wall_attention, {}),
    ("wall-attention", wall_attention, {"gated": True}),
    ("delta-former", delta_former, {}),
    ("parallax", parallax, {}),
    ("parallax", parallax, {"window": 3, "key_heads": 2}),
    ("mega", mega, {}),
    ("mega", mega, {"softmax": True, "size": 3, "chunk": 4}),
    ("mega", mega, {"size": 2, "chunk": 5, "state_size": 3}),
    ("tcnca", tcnca, {"chunk": 4, "kernel": 2, "depth": 2, "factor": 3}),
    ("tcnca", tcnca, {"softmax": True}),
    ("rat", rat, {"chunk": 3}),
    ("rat", rat, {"chunk": 1, "key_heads": 4}),
]


@pytest.mark.parametrize("engine", ["loop", "parallel"])
@pytest.mark.parametrize(("name", "formula", "options"), EQUATIONS)
def test_layer_is_its_formula(name, formula, options, engine):
    layer, x = recurra.layer(name, D, **options).double(), torch.randn(B, T, D, dtype=torch.float64)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    assert_close("y", layer(x, engine=engine)[0], formula(layer, x))


@pytest.mark.parametrize(("name", "formula", "options"), EQUATIONS)
def test_long_sequences_run_in_blocks(name, formula, options):
    if "window" in options:
        options = options | {"window": 70}
    layer = recurra.layer(name, D, **options).double()
    x = torch.randn(1, BLOCK + 40, D, dtype=torch.float64, requires_grad=True)
    _, state = layer(x[:, :5])
    y = torch.cat([layer(x[:, :5])[0], layer(x[:, 5:], state)[0]], 1)
    expected = formula(layer, x)
    assert_close("y", y, expected)
    weight = torch.randn_like(y)
    got, wanted = (torch.autograd.grad((z * weight).sum(), x)[0] for z in (y, expected))
    assert_close("gradient", got, wanted)


def test_within_the_window_sinks_change_nothing_and_beyond_it_the_state_does_not_grow():
    layer, x = recurra.layer("local-attention", D, window=5, sinks=2), torch.randn(B, 40, D)
    full = recurra.layer("attention", D, key_heads=1, rotary=0.5)
    full.load_state_dict(layer.state_dict())
    assert_close("y", layer(x[:, :5])[0], full(x[:, :5])[0])
    assert not torch.allclose(layer(x)[0][:, 5:], full(x)[0][:, 5:])
    assert {name: value.shape[2] for name, value in layer(x)[1].items() if value.dim() > 2} == {
        "keys": 4, "values": 4, "sink_keys": 2, "sink_values": 2,
    }  # fmt: skip


def test_shared_keys_are_many_heads_that_are_tied():
    """With one key head the state is smaller by the number of heads."""
    shared, many = (recurra.layer("attention", D, key_heads=n) for n in (1, H))
    tied = {
        n: w.repeat(H, 1) if n in ("to_key.weight", "to_value.weight") else w for n, w in shared.state_dict().items()
    }
    many.load_state_dict(tied)
    x = torch.randn(B, T, D)
    (y, state), (expected, wide) = shared(x), many(x)
    assert_close("y", y, expected)
    assert wide["keys"].nbytes == H * state["keys"].nbytes


def test_the_receptive_field_of_tcnca_is_the_one_that_is_said():
    layer = recurra.layer("tcnca", D, kernel=3, depth=2, factor=2, chunk=1).double()
    for taps in layer.taps:  # so that nothing is cut off on the way
        taps.weight.data.abs_()
        taps.bias.data.fill_(0.1)
    x = torch.rand(1, 30, D, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(layer(x)[0][0, -1].sum(), x)
    assert layer.receptive_field == 13
    assert slope[0].abs().sum(-1).nonzero().flatten().tolist() == list(range(30 - 13, 30))


def test_attention_is_that_of_torch():
    layer, x = recurra.layer("attention", D, rotary=0.0), torch.randn(B, T, D)
    peer = torch.nn.MultiheadAttention(D, H, bias=False, batch_first=True)
    with torch.no_grad():
        peer.in_proj_weight.copy_(torch.cat([layer.to_query.weight, layer.to_key.weight, layer.to_value.weight]))
        peer.out_proj.weight.copy_(layer.to_output.weight)
    mask = torch.ones(T, T).triu(1).bool()
    assert_close("y", layer(x)[0], peer(x, x, x, attn_mask=mask, need_weights=False)[0])
    q, k, v = (split(to(x)) for to in (layer.to_query, layer.to_key, layer.to_value))
    assert_close("y", layer(x)[0], layer.to_output(merge(scaled_dot_product_attention(q, k, v, is_causal=True))))


@pytest.mark.parametrize(("key_heads", "window"), [(1, 64), (2, 5)])
def test_local_attention_is_that_of_transformers(key_heads, window):
    transformers = pytest.importorskip("transformers")
    from transformers.models.recurrent_gemma import modeling_recurrent_gemma as gemma

    config = transformers.RecurrentGemmaConfig(
        hidden_size=D, num_attention_heads=H, num_key_value_heads=key_heads, head_dim=D // H, attention_dropout=0.0
    )
    peer = gemma.RecurrentGemmaAttention(config, 0).eval()
    layer, x = recurra.layer("local-attention", D, key_heads=key_heads, window=window), torch.randn(B, T, D)
    with torch.no_grad():
        for ours, theirs in (("query", "q"), ("key", "k"), ("value", "v"), ("output", "o")):
            getattr(layer, f"to_{ours}").weight.copy_(getattr(peer, f"{theirs}_proj").weight)
        peer.o_proj.bias.zero_()
    age = torch.arange(T)[:, None] - torch.arange(T)
    mask = torch.where((age >= 0) & (age < window), 0.0, float("-inf"))[None, None]
    expected = peer(x, torch.arange(T)[None].expand(B, -1), mask)[0]
    assert_close("y", layer(x)[0], expected)
