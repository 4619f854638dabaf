"""Delta rules and memories that learn at test time against their papers' equations, over the whole batch.

Inner gradients are written out by hand here.
"""

import math

import pytest
import torch
from torch.nn.functional import layer_norm, silu, softplus

import recurra
from recurra.testing.tolerances import assert_close

D, B, T = 8, 3, 11


def heads(x, n):
    return x.unflatten(-1, (n, -1))


def convolved(signal, weight, bias=0.0):
    """Depthwise causal convolution, its last tap now."""
    kernel = weight.shape[1]
    padded = torch.nn.functional.pad(signal, (0, 0, kernel - 1, 0))
    return sum(padded[:, k : k + T] * weight[:, k] for k in range(kernel)) + bias


def unit(x):
    return x / (x.square().sum(-1, keepdim=True) + 1e-6).sqrt()


def rms_norm(x, weight, eps=1e-5):
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight


def householder(k, beta):
    """I - beta k k^T for [..., K] and [...]."""
    return torch.eye(k.shape[-1]) - beta[..., None, None] * k[..., :, None] * k[..., None, :]


def delta_net(layer, x, largest=1.0):
    n = layer.heads
    q, k, v = (heads(z, n) for z in silu(convolved(layer.to_qkv(x), layer.conv_weight)).chunk(3, -1))
    q, k, beta = unit(q), unit(k), largest * torch.sigmoid(layer.to_beta(x))
    S, out = torch.zeros(B, n, layer.size, layer.size), []
    for t in range(T):
        written = beta[:, t, :, None, None] * v[:, t, :, :, None] * k[:, t, :, None, :]
        S = S @ householder(k[:, t], beta[:, t]) + written
        out.append((S @ q[:, t, :, :, None])[..., 0])
    return layer.to_output(rms_norm(torch.stack(out, 1), layer.norm_weight).flatten(2))


def delta_net_with_negative_eigenvalues(layer, x):
    return delta_net(layer, x, largest=2.0)


def gated_delta_net(layer, x):
    n, groups, K, V = layer.heads, layer.key_heads, layer.K, layer.V
    each = n // groups
    blocks = heads(layer.to_qkvz(x), groups)
    q, k, v, z = (
        blocks[..., a:b].flatten(2)
        for a, b in ((0, K), (K, 2 * K), (2 * K, 2 * K + each * V), (2 * K + each * V, 2 * K + 2 * each * V))
    )
    qkv = silu(convolved(torch.cat([q, k, v], -1), layer.conv_weight))
    q, k = unit(heads(qkv[..., : groups * K], groups)), unit(heads(qkv[..., groups * K : 2 * groups * K], groups))
    v, z = heads(qkv[..., 2 * groups * K :], n), heads(z, n)
    ba = heads(layer.to_ba(x), groups)
    beta = torch.sigmoid(ba[..., :each].flatten(2))
    alpha = torch.exp(-torch.exp(layer.A_log) * softplus(ba[..., each:].flatten(2) + layer.dt_bias))
    S, out = torch.zeros(B, n, V, K), []
    for t in range(T):
        key, query = (torch.stack([z[:, t, h // each] for h in range(n)], 1) for z in (k, q))
        kept = alpha[:, t, :, None, None] * S @ householder(key, beta[:, t])
        S = kept + beta[:, t, :, None, None] * v[:, t, :, :, None] * key[:, :, None, :]
        out.append((S @ query[..., None])[..., 0] / math.sqrt(K))
    return layer.to_output((rms_norm(torch.stack(out, 1), layer.norm_weight) * silu(z)).flatten(2))


def delta_product(layer, x):
    n, times, K = layer.heads, layer.householders, layer.size
    qkv = silu(convolved(layer.to_qkv(x), layer.conv_weight))
    q = unit(heads(qkv[..., :D], n))
    k, v = (z.reshape(B, T, n, times, K) for z in qkv[..., D:].chunk(2, -1))
    k, beta = unit(k), 2 * torch.sigmoid(layer.to_beta(x)).reshape(B, T, n, times)
    S, out = torch.zeros(B, n, K, K), []
    for t in range(T):
        # The product of all reflections first, and what each of them lets through of what was written before it.
        product, written = torch.eye(K).expand(B, n, K, K), torch.zeros(B, n, K, K)
        for j in range(times):
            turn, b = householder(k[:, t, :, j], beta[:, t, :, j]), beta[:, t, :, j, None, None]
            product, written = product @ turn, written @ turn + b * v[:, t, :, j, :, None] * k[:, t, :, j, None, :]
        S = S @ product + written
        out.append((S @ q[:, t, :, :, None])[..., 0])
    return layer.to_output(rms_norm(torch.stack(out, 1), layer.norm_weight).flatten(2))


def rwkv7(layer, x):
    n = layer.heads
    before = torch.cat([torch.zeros(B, 1, D), x[:, :-1]], 1)
    xr, xw, xk, xv, xa, xg = (torch.lerp(x, before, mu) for mu in layer.mix)
    r, k, v = layer.to_r(xr), layer.to_k(xk), layer.to_v(xv)
    d = torch.tanh(xw @ layer.to_w[0].weight.T) @ layer.to_w[2].weight.T + layer.to_w[2].bias
    w = torch.exp(-math.exp(-0.5) * torch.sigmoid(d))
    a = torch.sigmoid(xa @ layer.to_a[0].weight.T @ layer.to_a[2].weight.T + layer.to_a[2].bias)
    g = torch.sigmoid(xg @ layer.to_g[0].weight.T) @ layer.to_g[2].weight.T
    kappa = heads(k * layer.k_k, n)
    kappa = kappa / kappa.norm(dim=-1, keepdim=True)
    k = k * torch.lerp(torch.ones(D), a, layer.k_a)
    r, w, k, v, a = (heads(z, n) for z in (r, w, k, v, a))
    S, out = torch.zeros(B, n, D // n, D // n), []
    for t in range(T):
        transition = torch.diag_embed(w[:, t]) - kappa[:, t, :, :, None] * (a * kappa)[:, t, :, None, :]
        S = S @ transition + v[:, t, :, :, None] * k[:, t, :, None, :]
        out.append((S @ r[:, t, :, :, None])[..., 0])
    o = torch.nn.functional.group_norm(
        torch.stack(out, 1).reshape(B * T, D), n, layer.norm_weight.flatten(), layer.norm_bias.flatten(), 64e-5
    )
    bonus = (r * layer.rho * k).sum(-1, keepdim=True) * v
    return layer.to_output(g * (o.reshape(B, T, D) + bonus.flatten(2)))


def gelu(x):
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def gelu_slope(x):
    c = math.sqrt(2 / math.pi)
    inner = torch.tanh(c * (x + 0.044715 * x**3))
    return 0.5 * (1 + inner) + 0.5 * x * (1 - inner**2) * c * (1 + 3 * 0.044715 * x**2)


def by_head(weight, x):
    return torch.einsum("bhij,bhj->bhi", weight, x)


def outer(a, b):
    return a[..., :, None] * b[..., None, :]


def trained_at_test_time(layer, x, mlp):
    n, K, out = layer.heads, layer.size, []
    u = layer.to_qk(x)
    q, k = (heads(convolved(u, layer.conv_weight[i], layer.conv_bias[i]), n) for i in range(2))
    v, eta = heads(layer.to_v(x), n), torch.sigmoid(layer.to_rate(x))[..., None] * (0.1 if mlp else 1.0) / K
    scale, shift = layer.norm_weight, layer.norm_bias
    W1, b1 = (z.expand(B, *z.shape) for z in (layer.W1, layer.b1))
    W2, b2 = (z.expand(B, *z.shape) for z in (layer.W2, layer.b2)) if mlp else (None, None)

    def model(x):
        hidden = by_head(W1, x) + b1
        return (by_head(W2, gelu(hidden)) + b2, hidden) if mlp else (hidden, hidden)

    for t in range(T):
        m, hidden = model(k[:, t])
        deviation = (m.var(-1, unbiased=False, keepdim=True) + 1e-6).sqrt()
        normed = (m - m.mean(-1, keepdim=True)) / deviation
        # Half the gradient of |f(k) - v|^2, back through the layer norm of the model.
        d = (k[:, t] + normed * scale + shift - v[:, t]) * scale
        d = (d - d.mean(-1, keepdim=True) - normed * (d * normed).mean(-1, keepdim=True)) / deviation
        if mlp:
            dW2, db2 = outer(d, gelu(hidden)), d
            d = by_head(W2.transpose(-1, -2), d) * gelu_slope(hidden)
            W2, b2 = W2 - eta[:, t, :, None] * dW2, b2 - eta[:, t] * db2
        W1, b1 = W1 - eta[:, t, :, None] * outer(d, k[:, t]), b1 - eta[:, t] * d
        m, _ = model(q[:, t])
        out.append(q[:, t] + layer_norm(m, (K,), eps=1e-6) * scale + shift)
    z = layer_norm(torch.stack(out, 1).flatten(2), (D,), layer.post_norm.weight, layer.post_norm.bias, 1e-6)
    return layer.to_output(z * gelu(layer.to_gate(x)))


def ttt_linear(layer, x):
    return trained_at_test_time(layer, x, mlp=False)


def ttt_mlp(layer, x):
    return trained_at_test_time(layer, x, mlp=True)


def titans(layer, x):
    n, out = layer.heads, []
    q, k, v = (heads(z, n) for z in silu(convolved(layer.to_qkv(x), layer.conv_weight)).chunk(3, -1))
    q, k = unit(q), unit(k)
    alpha, eta, theta = torch.sigmoid(layer.to_rates(x))[..., None, None].chunk(3, -3)
    M = [weight.expand(B, *weight.shape) for weight in layer.memory]
    S = [torch.zeros_like(weight) for weight in M]
    for t in range(T):
        reads, hidden = [k[:, t]], []
        for weight in M[:-1]:
            hidden.append(by_head(weight, reads[-1]))
            reads.append(silu(hidden[-1]))
        d, slopes = 2 * (by_head(M[-1], reads[-1]) - v[:, t]), []
        for i in reversed(range(len(M))):
            slopes.insert(0, outer(d, reads[i]))
            if i:
                gate = torch.sigmoid(hidden[i - 1])
                d = by_head(M[i].transpose(-1, -2), d) * gate * (1 + hidden[i - 1] * (1 - gate))
        S = [eta[:, t] * s - theta[:, t] * slope for s, slope in zip(S, slopes, strict=True)]
        M = [(1 - alpha[:, t]) * m + s for m, s in zip(M, S, strict=True)]
        y = q[:, t]
        for weight in M[:-1]:
            y = silu(by_head(weight, y))
        out.append(by_head(M[-1], y))
    return layer.to_output(rms_norm(torch.stack(out, 1), layer.norm_weight).flatten(2) * silu(layer.to_gate(x)))


def miras(layer, x, slope, weights, update):
    """slope(e, delta): the loss's derivative; weights(S); update(S, W, slope, alpha, eta)."""
    n, out = layer.heads, []
    q, k, v = (heads(z, n) for z in silu(convolved(layer.to_qkv(x), layer.conv_weight)).chunk(3, -1))
    q, k = unit(q), unit(k)
    alpha, eta, delta = layer.to_rates(x)[..., None].chunk(3, -2)
    alpha, eta, delta = torch.sigmoid(alpha)[..., None], torch.sigmoid(eta)[..., None], softplus(delta)
    scale, shift = layer.memory_weight, layer.memory_bias
    S = [s.expand(B, *s.shape) for s in (layer.S1, layer.S2)]
    for t in range(T):
        W = [weights(s) for s in S]
        hidden = by_head(W[0], k[:, t])
        m = by_head(W[1], gelu(hidden))
        deviation = (m.var(-1, unbiased=False, keepdim=True) + 0.01).sqrt()
        normed = (m - m.mean(-1, keepdim=True)) / deviation
        d = slope(k[:, t] + normed * scale + shift - v[:, t], delta[:, t]) * scale
        d = (d - d.mean(-1, keepdim=True) - normed * (d * normed).mean(-1, keepdim=True)) / deviation
        slopes = [outer(by_head(W[1].transpose(-1, -2), d) * gelu_slope(hidden), k[:, t]), outer(d, gelu(hidden))]
        S = [update(s, w, g, alpha[:, t], eta[:, t]) for s, w, g in zip(S, W, slopes, strict=True)]
        first, second = (weights(s) for s in S)
        m = by_head(second, gelu(by_head(first, q[:, t])))
        out.append(q[:, t] + layer_norm(m, m.shape[-1:], eps=0.01) * scale + shift)
    return layer.to_output(rms_norm(torch.stack(out, 1), layer.norm_weight).flatten(2) * silu(layer.to_gate(x)))


def decayed(S, _W, slope, alpha, eta):
    return alpha * S - eta * slope


def moneta(layer, x):
    def slope(e, _delta):
        return 3 * e * (e**2 + 1e-6).sqrt()

    return miras(layer, x, slope, lambda S: S / ((S**4).sum((-2, -1), keepdim=True) + 1e-6).sqrt(), decayed)


def yaad(layer, x):
    near = []

    def slope(e, delta):
        near.append(e.norm(dim=-1, keepdim=True) <= delta)
        return torch.where(near[-1], 2 * e, delta * e / (e**2 + 0.01).sqrt())

    y = miras(layer, x, slope, lambda S: S, decayed)
    assert 0 < torch.stack(near).double().mean() < 1, "only one side of the loss was seen"
    return y


def memora(layer, x):
    return miras(
        layer,
        x,
        lambda e, _delta: 2 * e,
        lambda S: torch.softmax(S, -1),
        lambda _S, W, slope, alpha, eta: alpha * torch.log(W) - eta * slope,
    )


EQUATIONS = [
    ("delta-net", delta_net, {}),
    ("delta-net", delta_net_with_negative_eigenvalues, {"negative_eigenvalues": True, "heads": 1}),
    ("gated-delta-net", gated_delta_net, {}),
    ("gated-delta-net", gated_delta_net, {"heads": 4, "key_heads": 2, "key_size": 3, "value_size": 5, "kernel": 2}),
    ("delta-product", delta_product, {}),
    ("delta-product", delta_product, {"householders": 3}),
    ("rwkv7", rwkv7, {}),
    ("ttt-linear", ttt_linear, {}),
    ("ttt-mlp", ttt_mlp, {}),
    ("titans", titans, {}),
    ("titans", titans, {"depth": 1}),
    ("titans", titans, {"depth": 3, "expand": 1}),
    ("moneta", moneta, {}),
    ("yaad", yaad, {}),
    ("memora", memora, {}),
]
HELD = {name for name, _, _ in EQUATIONS}


@pytest.mark.parametrize(("name", "equations", "options"), EQUATIONS)
def test_layer_is_its_paper(name, equations, options):
    torch.set_default_dtype(torch.float64)
    try:
        layer = recurra.layer(name, D, **options)
        with torch.no_grad():  # what starts at zero or one must show as well
            for parameter in layer.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.3)
            if name == "yaad":  # one head with errors above delta, one with errors below it
                layer.to_rates.bias[-2:] = torch.tensor([-1.5, 5.0])
        x = torch.randn(B, T, D)
        assert_close("y", layer(x)[0], equations(layer, x))
    finally:
        torch.set_default_dtype(torch.float32)


def test_delta_product_of_one_is_delta_net():
    x, one = torch.randn(B, T, D), recurra.layer("delta-product", D, householders=1, negative_eigenvalues=False)
    net = recurra.layer("delta-net", D)
    net.load_state_dict(one.state_dict())
    assert_close("y", net(x)[0], one(x)[0])


@pytest.mark.parametrize(("name", "options"), [("delta-net", {"negative_eigenvalues": True}), ("delta-product", {})])
def test_negative_eigenvalues_turn_signs(name, options):
    layer = recurra.layer(name, D, **options)
    with torch.no_grad():
        layer.to_beta.weight.fill_(9.0)
    assert 1.99 < layer.inputs(torch.ones(1, 1, D), OnePast())["beta"].min() <= 2.0


@pytest.mark.parametrize("name", ["delta-net", "delta-product"])
def test_output_gates_scale_what_was_normed(name):
    gated, plain = recurra.layer(name, D, output_gate=True).double(), recurra.layer(name, D).double()
    plain.load_state_dict(gated.state_dict(), strict=False)
    for layer in (gated, plain):
        torch.nn.init.eye_(layer.to_output.weight)
    x = torch.randn(B, T, D, dtype=torch.float64)
    assert_close("y", gated(x)[0], plain(x)[0] * torch.nn.functional.silu(gated.to_gate(x)))


class OnePast:
    """A first time step: nothing lies before it."""

    def convolve(self, _name, signal, weight, silu):
        assert silu
        return torch.nn.functional.silu(signal * weight[:, -1])


def test_gated_delta_net_starts_with_its_step_sizes_and_decays():
    layer = recurra.layer("gated-delta-net", 8, heads=2000, key_size=1)
    dt, A = softplus(layer.dt_bias), torch.exp(layer.A_log)
    assert 9e-4 < dt.min() < 2e-3
    assert 0.08 < dt.max() < 0.11
    assert 0 < A.min() < 0.1
    assert 15.9 < A.max() <= 16.01


@pytest.mark.parametrize(("width", "expected"), [(8, 2), (320, 4), (1024, 8), (7, 7), (1, 1), (100, 2)])
def test_heads_are_of_the_papers_size(width, expected):
    assert recurra.layer("delta-net", width).heads == expected


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("delta-net", {"heads": 3}, "heads is 3; expected a divisor of the width 8"),
        ("delta-net", {"kernel": 0}, "kernel is 0; expected a positive int"),
        ("delta-net", {"negative_eigenvalues": 1}, "negative_eigenvalues is 1; expected True or False"),
        ("gated-delta-net", {"heads": 0}, "heads is 0; expected a positive int"),
        ("gated-delta-net", {"heads": 4, "key_heads": 3}, "key_heads is 3; expected a divisor of the heads 4"),
        ("kimi-delta-attention", {"heads": 4, "key_heads": 3}, "key_heads is 3; expected a divisor of the heads 4"),
        ("gated-delta-net", {"key_size": 1.5}, "key_size is 1.5; expected a positive int"),
        ("gated-delta-net", {"value_size": -1}, "value_size is -1; expected a positive int"),
        ("gated-delta-net", {"norm_eps": -1.0}, "norm_eps is -1.0; expected a number of at least 0"),
        ("delta-product", {"householders": 0}, "householders is 0; expected a positive int"),
        ("delta-product", {"negative_eigenvalues": "no"}, "negative_eigenvalues is 'no'; expected True or False"),
        ("rwkv7", {"heads": 5}, "heads is 5; expected a divisor of the width 8"),
        ("ttt-linear", {"kernel": "4"}, "kernel is '4'; expected a positive int"),
        ("ttt-mlp", {"heads": True}, "heads is True; expected a divisor of the width 8"),
        ("titans", {"depth": 0}, "depth is 0; expected a positive int"),
        ("titans", {"expand": 0.5}, "expand is 0.5; expected a positive int"),
        ("moneta", {"p": 0.5}, "p is 0.5; expected a number of at least 1"),
        ("moneta", {"q": "4"}, "q is '4'; expected a number of at least 2"),
        ("yaad", {"heads": 3}, "heads is 3; expected a divisor of the width 8"),
        ("memora", {"kernel": -1}, "kernel is -1; expected a positive int"),
    ],
)
def test_wrong_options_are_named(name, options, words):
    with pytest.raises(recurra.InputError, match=words):
        recurra.layer(name, D, **options)
