"""Each recurrence against its paper's equations, written out here over the whole batch, step by step."""

import math
from pathlib import Path

import pytest
import torch
from test_atlas import HELD as ATLAS
from test_classic import HELD as CLASSIC
from test_continuous import HELD as CONTINUOUS
from test_delta_rule import HELD as DELTA_RULE
from test_linear_attention import HELD as LINEAR_ATTENTION
from test_newer_memories import EQUATIONS as NEWER
from test_state_spaces import HELD as STATE_SPACES
from test_taps import HELD as TAPS
from test_torch_nn import PEERS as TORCH
from test_torchrecurrent import PEERS as TORCHRECURRENT
from torch.nn.functional import gelu, linear, logsigmoid, silu, softplus

import recurra
from recurra.testing.tolerances import assert_close

D, B, T = 8, 3, 11


def heads(x, n):
    return x.unflatten(-1, (n, -1))


def mingru(layer, x):
    z = torch.sigmoid(layer.to_gate(x))
    raw = layer.to_value(x)
    v = torch.where(raw >= 0, raw + 0.5, torch.sigmoid(raw))
    h, out = torch.zeros(B, D), []
    for t in range(T):
        h = (1 - z[:, t]) * h + z[:, t] * v[:, t]
        out.append(h)
    return torch.stack(out, 1)


def minlstm(layer, x):
    f, i = torch.sigmoid(layer.to_forget(x)), torch.sigmoid(layer.to_input(x))
    raw = layer.to_value(x)
    v = torch.where(raw >= 0, raw + 0.5, torch.sigmoid(raw))
    h, out = torch.zeros(B, D), []
    for t in range(T):
        h = (f / (f + i))[:, t] * h + (i / (f + i))[:, t] * v[:, t]
        out.append(h)
    return torch.stack(out, 1)


def lru(layer, x):
    n = layer.state_size
    decay = torch.exp(torch.complex(-torch.exp(layer.nu_log), torch.exp(layer.theta_log)))
    inward = torch.complex(layer.B[:n], layer.B[n:]) * torch.exp(layer.gamma_log)[:, None]
    outward = torch.complex(layer.C[:, :n], layer.C[:, n:])
    h, out = torch.zeros(B, n, dtype=torch.complex64), []
    for t in range(T):
        h = decay * h + x[:, t].to(torch.complex64) @ inward.T
        out.append((h @ outward.T).real + layer.D * x[:, t])
    return torch.stack(out, 1)


def mamba(layer, x, norm=lambda selected: selected):
    (signal, gate), kernel = layer.to_inner(x).chunk(2, -1), layer.conv_weight.shape[1]
    padded = torch.nn.functional.pad(signal, (0, 0, kernel - 1, 0))
    u = silu(sum(padded[:, k : k + T] * layer.conv_weight[:, k] for k in range(kernel)) + layer.conv_bias)
    rank, n, _ = layer.split
    dt, bb, cc = map(norm, layer.to_selection(u).split([rank, n, n], -1))
    dt = softplus(layer.to_dt(dt))
    h, out = torch.zeros(B, layer.inner, n), []
    for t in range(T):
        h = torch.exp(dt[:, t, :, None] * -torch.exp(layer.A_log)) * h
        h = h + (dt[:, t] * u[:, t])[..., None] * bb[:, t, None]
        out.append((h * cc[:, t, None]).sum(-1) + layer.D * u[:, t])
    return layer.to_output(torch.stack(out, 1) * silu(gate))


def falcon_mamba(layer, x):
    return mamba(layer, x, lambda selected: selected / (selected.square().mean(-1, keepdim=True) + layer.eps).sqrt())


def rglru(layer, x):
    n = layer.gate_weight.shape[1]
    r, i = (
        torch.sigmoid(torch.einsum("bthi,hij->bthj", heads(x, n), w).flatten(2) + b)
        for w, b in zip(layer.gate_weight, layer.gate_bias, strict=True)
    )
    a = torch.sigmoid(-layer.Lambda) ** (8 * r)
    h, out = torch.zeros(B, D), []
    for t in range(T):
        h = a[:, t] * h + torch.sqrt(1 - a[:, t] ** 2) * i[:, t] * x[:, t]
        out.append(h)
    return torch.stack(out, 1)


def griffin(layer, x):
    """The first time step is not scaled."""
    kernel, n = layer.conv_weight.shape[1], layer.heads
    padded = torch.nn.functional.pad(layer.to_signal(x), (0, 0, kernel - 1, 0))
    u = sum(padded[:, k : k + T] * layer.conv_weight[:, k] for k in range(kernel)) + layer.conv_bias
    r, i = (
        torch.sigmoid(torch.einsum("bthi,hij->bthj", heads(u, n), w).flatten(2) + b)
        for w, b in zip(layer.gate_weight, layer.gate_bias, strict=True)
    )
    a = torch.sigmoid(-layer.Lambda) ** (8 * r)
    h, out = i[:, 0] * u[:, 0], []
    for t in range(T):
        h = h if t == 0 else a[:, t] * h + torch.sqrt(1 - a[:, t] ** 2) * i[:, t] * u[:, t]
        out.append(h)
    return layer.to_output(gelu(layer.to_gate(x), approximate="tanh") * torch.stack(out, 1))


def slstm(layer, x):
    pre = torch.einsum("bthi,hji->bthj", heads(x, layer.heads), layer.weight) + layer.bias
    c = n = h = torch.zeros(B, layer.heads, layer.size)
    m, out = torch.full_like(c, -math.inf), []
    for t in range(T):
        i, f, z, o = (pre[:, t] + torch.einsum("bhi,hji->bhj", h, layer.recurrent)).chunk(4, -1)
        new = torch.maximum(logsigmoid(f) + m, i)
        keep, admit = torch.exp(logsigmoid(f) + m - new), torch.exp(i - new)
        c, n, m = keep * c + admit * torch.tanh(z), keep * n + admit, new
        h = torch.sigmoid(o) * c / n
        out.append(h.flatten(1))
    return torch.stack(out, 1)


def diagonal_gru(layer, x):
    z, r, n = layer.to_gates(x).chunk(3, -1)
    a, h, out = layer.recurrent, torch.zeros(B, D), []
    for t in range(T):
        update, reset = torch.sigmoid(z[:, t] + a[:, 0] * h), torch.sigmoid(r[:, t] + a[:, 1] * h)
        h = (1 - update) * h + update * torch.tanh(n[:, t] + a[:, 2] * (reset * h))
        out.append(h)
    return torch.stack(out, 1)


def diagonal_lstm(layer, x):
    f, z, o = layer.to_gates(x).chunk(3, -1)
    a, p = layer.recurrent, layer.peephole
    h, c, out = torch.zeros(B, D), torch.zeros(B, D), []
    for t in range(T):
        keep = torch.sigmoid(f[:, t] + a[:, 0] * h + p[:, 0] * c)
        c = keep * c + (1 - keep) * torch.tanh(z[:, t] + a[:, 1] * h)
        h = torch.sigmoid(o[:, t] + a[:, 2] * h + p[:, 1] * c) * torch.tanh(c)
        out.append(h)
    return torch.stack(out, 1)


def multi_head_lstm(layer, x):
    pre = heads(linear(x, layer.weight_ih_l0, layer.bias_ih_l0 + layer.bias_hh_l0), 2)
    weight = layer.weight_hh_l0.unflatten(0, (2, -1))
    h = c = torch.zeros(B, 2, D // 2)
    out = []
    for t in range(T):
        i, f, g, o = (pre[:, t] + torch.einsum("bhi,hji->bhj", h, weight)).chunk(4, -1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        out.append(h.flatten(1))
    return torch.stack(out, 1)


def before(x):
    return torch.cat([torch.zeros(B, 1, D), x[:, :-1]], 1)


def rwkv4(layer, x):
    """Every step anew, as the sums that the paper writes."""
    k, v, r = (
        linear(mu * x + (1 - mu) * before(x), to.weight)
        for mu, to in ((layer.mix_k, layer.to_k), (layer.mix_v, layer.to_v), (layer.mix_r, layer.to_r))
    )
    out = []
    for t in range(T):
        age = torch.arange(t - 1, -1, -1.0)[:, None]
        weights = torch.cat(
            [torch.exp(-age * torch.exp(layer.decay) + k[:, :t]), torch.exp(layer.first + k[:, t : t + 1])], 1
        )
        out.append((weights * v[:, : t + 1]).sum(1) / weights.sum(1))
    return layer.to_output(torch.sigmoid(r) * torch.stack(out, 1))


def rwkv4_channel_mix(layer, x):
    k, r = (mu * x + (1 - mu) * before(x) for mu in (layer.mix_k, layer.mix_r))
    return torch.sigmoid(layer.to_r(r)) * layer.to_v(layer.to_k(k).clamp(min=0) ** 2)


def xlstm_7b(layer, x):
    """The parallel form, without a maximum to subtract."""
    q, k, v = (heads(to(x), layer.heads) for to in (layer.to_query, layer.to_key, layer.to_value))
    i, f = (3 * torch.tanh(to(x) / 3) for to in (layer.to_input, layer.to_forget))
    decay = logsigmoid(f).cumsum(1)
    log = decay[:, :, None] - decay[:, None] + i[:, None]  # [B, t, s, heads]
    weights = torch.where(torch.tril(torch.ones(T, T, dtype=torch.bool))[..., None], torch.exp(log), 0)
    scores = weights * torch.einsum("bthk,bshk->btsh", q, k) / math.sqrt(k.shape[-1])
    h = torch.einsum("btsh,bshv->bthv", scores, v) / torch.maximum(scores.sum(2).abs(), torch.ones(()))[..., None]
    normed = (h - h.mean(-1, keepdim=True)) / (h.var(-1, keepdim=True, correction=0) + layer.eps).sqrt()
    return layer.to_output(torch.sigmoid(layer.to_gate(x)) * normed.flatten(2) * layer.norm_weight)


EQUATIONS = {
    "min-gru": (mingru, {}),
    "min-lstm": (minlstm, {}),
    "lru": (lru, {"state_size": 5}),
    "mamba": (mamba, {"state_size": 3}),
    "falcon-mamba": (falcon_mamba, {"state_size": 3, "eps": 0.1}),
    "griffin": (griffin, {"hidden": 6, "heads": 2, "kernel": 3}),
    "rg-lru": (rglru, {"heads": 2}),
    "slstm": (slstm, {"heads": 2}),
    "diagonal-gru": (diagonal_gru, {}),
    "diagonal-lstm": (diagonal_lstm, {}),
    "lstm": (multi_head_lstm, {"heads": 2}),
    "rwkv4": (rwkv4, {"hidden": 6}),
    "rwkv4-channel-mix": (rwkv4_channel_mix, {"hidden": 5}),
    "xlstm-7b": (xlstm_7b, {"heads": 2, "cap": 3.0, "eps": 0.1}),
}
"""RNN, GRU and the LSTM with one head are held to torch.nn instead."""


@pytest.mark.parametrize("name", EQUATIONS)
def test_layer_is_its_paper(name):
    equations, options = EQUATIONS[name]
    layer = recurra.layer(name, D, **options)
    x = torch.randn(B, T, D)
    assert_close("y", layer(x)[0], equations(layer, x))


ELSEWHERE = {
    "mamba3": "test_mamba3",
    "mesa-net": "test_fla",
    "preconditioned-kda": "test_fla",
    "preconditioned-gated-delta-net": "test_fla",
}
"""Files that hold a layer to equations, or to another implementation, by itself."""


def test_every_layer_is_held_to_something():
    held = (
        set(EQUATIONS)
        | {name for name, *_ in TORCH.values()}
        | {name for name, *_ in TORCHRECURRENT.values()}
        | CLASSIC
    )
    for name, file in ELSEWHERE.items():
        assert f'"{name}"' in Path(__file__).with_name(f"{file}.py").read_text()
    held |= {case.split(",")[0] for case in NEWER}
    held |= ELSEWHERE.keys() | ATLAS | CONTINUOUS | DELTA_RULE | LINEAR_ATTENTION | STATE_SPACES | TAPS
    assert held == {name for name, kind in recurra.layers().items() if issubclass(kind, recurra.Recurrence)}


def test_lru_starts_on_its_ring():
    layer = recurra.layer("lru", 4000, state_size=4000, r_min=0.4, r_max=0.8)
    radius = torch.exp(-torch.exp(layer.nu_log))
    assert 0.4 <= radius.min() < 0.42
    assert 0.78 < radius.max() <= 0.8001
    assert abs((radius**2).mean() - (0.4**2 + 0.8**2) / 2) < 0.02
    assert_close("gamma", torch.exp(layer.gamma_log), torch.sqrt(1 - radius**2))


def test_mamba_starts_with_its_step_sizes():
    dt = softplus(recurra.layer("mamba", 500).to_dt.bias)
    assert dt.min() >= 9e-4
    assert dt.max() <= 0.11
    assert abs(torch.log(dt).mean() - math.log(0.01)) < 0.15


def test_heads_of_mamba_are_mambas_side_by_side():
    """Each reads its own channels only, and its own rows of the maps."""
    torch.manual_seed(3)
    whole, x = recurra.layer("mamba", D, state_size=3, expand=4, heads=2, rank=3), torch.randn(B, T, D)
    total, size = 0, whole.inner // 2
    for head in range(2):
        one = recurra.layer("mamba", D, state_size=3, expand=2, rank=3)
        own = slice(head * size, (head + 1) * size)
        maps = {"to_inner.weight", "to_output.weight", "to_selection.weight", "to_dt.weight"}
        held = {name: value[own] for name, value in whole.state_dict().items() if name not in maps}
        held["to_inner.weight"] = whole.to_inner.weight.unflatten(0, (2, -1))[:, own].flatten(0, 1)
        held["to_output.weight"] = whole.to_output.weight[:, own]
        held |= {f"{name}.weight": getattr(whole, name).weight[head] for name in ("to_selection", "to_dt")}
        one.load_state_dict(held)
        total = total + one(x)[0]
    assert_close("y", whole(x)[0], total)


def test_rg_lru_starts_with_its_decays():
    layer = recurra.layer("rg-lru", 2000)
    a = torch.exp(-8 * softplus(layer.Lambda))
    assert 0.9 <= a.min() < 0.91
    assert 0.99 < a.max() <= 0.9991


@pytest.mark.parametrize("engine", ["loop", "compiled"])
def test_rg_lru_closes_its_gate_without_nan(engine):
    layer = recurra.layer("rg-lru", D)
    with torch.no_grad():
        layer.gate_bias[0] = torch.linspace(-200, 0, D)
    x = torch.randn(B, T, D, requires_grad=True)
    y, _ = layer(x, engine=engine)
    y.sum().backward()
    assert y[..., 0].abs().max() < 1e-15
    assert all(t.grad.isfinite().all() for t in (x, *layer.parameters()))


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("lstm", {"heads": 3}, "heads is 3"),
        ("slstm", {"heads": 5}, "heads is 5"),
        ("rg-lru", {"heads": 0}, "heads is 0"),
        ("rnn", {"nonlinearity": "sigmoid"}, "nonlinearity is 'sigmoid'"),
        ("lru", {"r_min": 0.9, "r_max": 0.5}, "r_min is 0.9; expected a number of at least 0 and below 0.5"),
        ("lru", {"r_max": "1"}, "r_max is '1'"),
        ("lru", {"state_size": 0}, "state_size is 0"),
        ("rnn", {"hidden": -3}, "hidden is -3"),
        ("gru", {"hidden": 4.0}, "hidden is 4.0"),
        ("mamba", {"kernel": 0}, "kernel is 0"),
        ("mamba", {"state_size": None}, "state_size is None"),
        ("mamba", {"rank": True}, "rank is True"),
        ("mamba", {"nonsense": 1}, "nonsense"),
        ("lstm", {"num_layers": 0}, "num_layers is 0"),
    ],
)
def test_wrong_options_are_named(name, options, words):
    with pytest.raises(recurra.InputError, match=words):
        recurra.layer(name, D, **options)
