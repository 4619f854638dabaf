"""Matrix memories that only decay: each against its paper's equations in parallel form, and against other people's."""

import math
from dataclasses import replace

import peers
import pytest
import torch
from torch.nn.functional import conv1d, elu, layer_norm, linear, logsigmoid, silu, softplus

import recurra
from recurra.engines.choose import run
from recurra.testing.forms import packed_and_padded, same_as_reference
from recurra.testing.laws import LAWS
from recurra.testing.tolerances import assert_close

D, B, T = 8, 3, 11
CAUSAL = torch.ones(T, T, dtype=torch.bool).tril()


def heads(x, n):
    """[B, T, n d] to [B, n, T, d]."""
    return x.unflatten(-1, (n, -1)).transpose(1, 2)


def whole(y):
    """[B, n, T, d] to [B, T, n d]."""
    return y.transpose(1, 2).flatten(2)


def since(log_decay):
    """[B, n, T, ...] to [B, n, T, T, ...]: what is left at t of what came in at s, and nothing of what is to come."""
    total = log_decay.cumsum(2)
    mask = CAUSAL.reshape(1, 1, T, T, *[1] * (log_decay.dim() - 3))
    return torch.exp(torch.where(mask, total[:, :, :, None] - total[:, :, None], -math.inf))


def convolved(layer, x):
    weight = layer.conv_weight[:, None]
    return silu(conv1d(x.mT, weight, layer.conv_bias, padding=weight.shape[-1] - 1, groups=len(weight))[..., :T].mT)


def linear_attention(layer, x):
    return attended(layer, x, lambda u, to: elu(u) + 1)


def attended(layer, x, phi):
    q, k, v = (heads(p(x), layer.heads) for p in (layer.to_query, layer.to_key, layer.to_value))
    weights = phi(q, layer.map_query) @ phi(k, layer.map_key).mT * CAUSAL
    return layer.to_output(whole(weights @ v / (weights.sum(-1, keepdim=True) + 1e-6)))


def based(layer, x):
    q, k, v = (heads(p(x), layer.heads) for p in (layer.to_query, layer.to_key, layer.to_value))
    s = q @ k.mT / math.sqrt(layer.features)
    weights = (1 + s + s**2 / 2) * CAUSAL
    return layer.to_output(whole(weights @ v / weights.sum(-1, keepdim=True)))


def retnet(layer, x):
    q, k, v = (heads(p(x), layer.heads) for p in (layer.to_query, layer.to_key, layer.to_value))
    d = q.shape[-1]
    angle = torch.arange(T)[:, None] * torch.logspace(0, -4, d // 2)

    def rotated(u):
        even, odd = u[..., ::2], u[..., 1::2]
        return torch.cat([even * angle.cos() - odd * angle.sin(), even * angle.sin() + odd * angle.cos()], -1)

    decay = torch.log(torch.tensor([1 - 2.0 ** (-5 - j) for j in range(layer.heads)]))
    y = (rotated(q) @ rotated(k).mT / math.sqrt(d) * since(decay[None, :, None].expand(1, -1, T))) @ v
    y = (y - y.mean(-1, keepdim=True)) / torch.sqrt(y.var(-1, correction=0, keepdim=True) + 1e-5)
    return layer.to_output(whole(y) * silu(layer.to_gate(x)))


def gla(layer, x):
    q, k, v = (heads(p(x), layer.heads) for p in (layer.to_query, layer.to_key, layer.to_value))
    a = torch.sigmoid(heads(layer.to_forget(x), layer.heads)) ** (1 / layer.temperature)
    weights = torch.einsum("bhtk,bhsk,bhtsk->bhts", q, k, since(torch.log(a))) / math.sqrt(q.shape[-1])
    y = weights @ v
    y = y / torch.sqrt((y**2).mean(-1, keepdim=True) + 1e-5) * layer.norm.weight
    return layer.to_output(whole(y) * silu(layer.to_gate(x)))


def hgrn2(layer, x):
    n = D // layer.size
    f = layer.lower_bound + (1 - layer.lower_bound) * torch.sigmoid(heads(layer.to_forget(x), n))
    i, o = silu(heads(layer.to_input(x), n)), torch.sigmoid(heads(layer.to_query(x), n))
    weights = torch.einsum("bhtk,bhsk,bhtsk->bhts", o, 1 - f, since(torch.log(f)))
    return layer.to_output(layer_norm(whole(weights @ i), (D,), layer.norm.weight, layer.norm.bias))


def hgrn(layer, x):
    f = layer.lower_bound + (1 - layer.lower_bound) * torch.sigmoid(layer.to_forget(x))
    c = silu(layer.to_input(x))
    if layer.rotate:
        c = torch.complex(c[..., :D], c[..., D:])
    turn = torch.polar(torch.ones(D), layer.theta) if layer.rotate else 1
    h, out = torch.zeros_like(c[:, 0]), []
    for t in range(T):
        h = f[:, t] * turn * h + (1 - f[:, t]) * c[:, t]
        out.append(torch.cat([h.real, h.imag], -1) if layer.rotate else h)
    gated = torch.sigmoid(layer.to_gate(x)) * torch.stack(out, 1)
    return layer.to_output(layer_norm(gated, gated.shape[-1:], layer.norm.weight, layer.norm.bias))


def mamba2(layer, x):
    h, p, n = layer.shape
    gate, signal, dt = layer.to_inner(x).split([h * p, h * p + 2 * layer.groups * n, h], -1)
    u, b, c = convolved(layer, signal).split([h * p, layer.groups * n, layer.groups * n], -1)
    u, b, c = heads(u, h), heads(b, layer.groups), heads(c, layer.groups)
    group = torch.arange(h) // (h // layer.groups)
    dt = softplus(dt + layer.dt_bias).mT
    weights = c[:, group] @ b[:, group].mT * since(dt * -torch.exp(layer.A_log)[:, None])
    y = weights @ (dt[..., None] * u) + layer.D[:, None, None] * u
    y = (whole(y) * silu(gate)).unflatten(-1, (layer.groups, -1))
    return layer.to_output((y / torch.sqrt((y**2).mean(-1, keepdim=True) + 1e-5)).flatten(2) * layer.norm_weight)


def mlstm(layer, x):
    signal = layer.to_signal(x)
    u = convolved(layer, signal)
    q, k = (u @ torch.block_diag(*w).T for w in (layer.to_query, layer.to_key))
    v = signal @ torch.block_diag(*layer.to_value).T
    qkv = torch.cat([q, k, v], -1)
    i, f = layer.to_input(qkv).mT, layer.to_forget(qkv).mT
    q, k, v = (heads(z, layer.heads) for z in (q, k, v))
    weights = q @ k.mT / math.sqrt(q.shape[-1]) * since(logsigmoid(f)) * torch.exp(i)[:, :, None]
    h = weights @ v / weights.sum(-1, keepdim=True).abs().clamp(min=1)
    normed = whole(layer_norm(h, h.shape[-1:])) * layer.norm_weight
    return layer.to_output((normed + layer.skip * u) * silu(layer.to_gate(x)))


def abc(layer, x):
    """All slots of all time steps by sums over time."""
    q, k, v, s = (heads(to(x), layer.heads) for to in (layer.to_query, layer.to_key, layer.to_value, layer.to_slots))
    p = torch.exp(s)[:, :, None] * CAUSAL[..., None]  # [B, n, T, T, M]
    p = p / p.sum(3, keepdim=True)
    K, V = (torch.einsum("bntsm,bnsd->bntmd", p, z) for z in (k, v))
    weights = torch.softmax((K @ q[..., None])[..., 0] / math.sqrt(q.shape[-1]), -1)
    return layer.to_output(whole((weights[..., None] * V).sum(3)))


def dpfp(u, to):  # noqa: ARG001
    parts = torch.relu(torch.stack([s * u[..., i] for s in (1, -1) for i in range(u.shape[-1])], -1))
    return torch.stack([parts[..., i] * parts[..., i - 1] for i in range(parts.shape[-1])], -1)


def hedgehog(u, to):
    u = torch.exp(2 * linear(u, to.weight, to.bias))
    return torch.cat([u, 1 / u], -1) / (u + 1 / u).sum(-1, keepdim=True)


PHI = {
    "relu": lambda u, to: u.clamp(min=0),
    "t2r": lambda u, to: linear(u, to.weight, to.bias).clamp(min=0),
    "hedgehog": hedgehog,
    "dpfp": dpfp,
}


@pytest.mark.parametrize("feature_map", PHI)
def test_feature_maps(feature_map):
    """In float64: features of a query may all be near zero, where the slope of their quotient is steep."""

    def make():
        return scattered(recurra.layer("linear-attention", D, heads=2, feature_map=feature_map))

    layer, x = make().double(), torch.randn(B, T, D, dtype=torch.float64)
    assert_close(feature_map, layer(x)[0], attended(layer, x, PHI[feature_map]))
    for engine in ("compiled", "scan", "chunkwise"):
        same_as_reference(make, engine, torch.float64)
    packed_and_padded(make, "chunkwise", torch.float64)


def test_feature_maps_are_named():
    known = "'elu' or 'relu' or 't2r' or 'hedgehog' or 'dpfp'"
    with pytest.raises(recurra.InputError, match=f"feature_map is 'identity'; expected {known}"):
        recurra.layer("linear-attention", D, feature_map="identity")


EQUATIONS = [
    ("linear-attention", linear_attention, {"heads": 2}),
    ("based", based, {"heads": 2, "features": 3}),
    ("retnet", retnet, {"heads": 2}),
    ("gla", gla, {"heads": 2, "key_width": 6, "rank": 3}),
    ("hgrn", hgrn, {"lower_bound": 0.3}),
    ("hgrn", hgrn, {"rotate": False}),
    ("hgrn2", hgrn2, {"head_size": 4, "lower_bound": 0.3}),
    ("hgrn2", hgrn2, {}),
    ("mamba2", mamba2, {"head_size": 4, "groups": 2, "state_size": 3}),
    ("mamba2", mamba2, {"head_size": 8, "state_size": 5, "kernel": 2}),
    ("abc", abc, {"heads": 2, "slots": 3}),
    ("abc", abc, {"heads": 4, "slots": 1}),
    ("mlstm", mlstm, {"heads": 2}),
    ("mlstm", mlstm, {"heads": 4, "block": 8, "expand": 1}),
]
"""Name, equations, options."""

HELD = {name for name, _, _ in EQUATIONS}
"""Names that this file holds to something."""


def scattered(layer):
    """The layer with every parameter moved away from where it starts, so that none is 0 or 1."""
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return layer


@pytest.mark.parametrize(("name", "equations", "options"), EQUATIONS)
def test_layer_is_its_paper(name, equations, options):
    layer = scattered(recurra.layer(name, D, **options))
    x = torch.randn(B, T, D)
    assert_close("y", layer(x)[0], equations(layer, x))


@pytest.mark.parametrize(("name", "options"), [(name, options) for name, _, options in EQUATIONS if options])
def test_options_keep_the_laws(name, options):
    for law in ("same_as_reference", "cut_anywhere"):
        LAWS[law](lambda: scattered(recurra.layer(name, D, **options)), "compiled", torch.float64)


def test_mamba2_starts_with_its_decays_and_step_sizes():
    layer = recurra.layer("mamba2", 500, head_size=2)
    a, dt = torch.exp(layer.A_log), softplus(layer.dt_bias)
    assert 1 <= a.min() < 1.2
    assert 15.8 < a.max() <= 16
    assert dt.min() >= 9e-4
    assert dt.max() <= 0.11
    assert abs(torch.log(dt).mean() - math.log(0.01)) < 0.3


def test_mlstm_starts_with_open_forget_gates():
    layer = recurra.layer("mlstm", D)
    gates = layer.problem(torch.randn(1, 5, D)).inputs
    assert_close("f", gates["f"].tensor, torch.linspace(3, 6, 4).expand(1, 5, 4))
    assert gates["i"].tensor.abs().max() < 1


def test_mlstm_forgets_extreme_gates_without_overflow():
    layer = recurra.layer("mlstm", D)
    with torch.no_grad():
        layer.to_input.bias.copy_(torch.tensor([100.0, -100, 300, -300]))
    y, state = layer(torch.randn(2, 50, D))
    assert y.isfinite().all()
    assert all(value.isfinite().all() for value in state.values())


def test_retention_decays_are_not_rounded_to_one():
    layer = recurra.layer("retnet", 64, heads=8).to(torch.bfloat16)
    gamma = layer.problem(torch.zeros(1, 1, 64, dtype=torch.bfloat16)).inputs["gamma"].tensor
    assert_close("gamma", gamma, 1 - 2.0 ** -torch.arange(5.0, 13))
    assert (gamma < 1).all()


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("linear-attention", {"heads": 3}, "heads is 3"),
        ("based", {"heads": 0}, "heads is 0"),
        ("based", {"features": 0}, "features is 0"),
        ("retnet", {"heads": 3}, "heads is 3"),
        ("retnet", {"heads": 8}, "heads is 8; expected an even number of channels"),
        ("retnet", {"expand": 0}, "expand is 0"),
        ("gla", {"heads": 8}, "heads is 8; expected a divisor of the key width 4"),
        ("gla", {"key_width": "wide"}, "key_width is 'wide'"),
        ("gla", {"rank": -1}, "rank is -1"),
        ("gla", {"temperature": 0}, "temperature is 0"),
        ("hgrn", {"lower_bound": 1}, "lower_bound is 1"),
        ("hgrn", {"rotate": "no"}, "rotate is 'no'"),
        ("hgrn2", {"head_size": 5}, "head_size is 5"),
        ("hgrn2", {"lower_bound": -0.1}, "lower_bound is -0.1"),
        ("mamba2", {"head_size": 3}, "head_size is 3"),
        ("mamba2", {"head_size": 4, "groups": 3}, "groups is 3"),
        ("mamba2", {"state_size": 0}, "state_size is 0"),
        ("mamba2", {"expand": 1.5}, "expand is 1.5"),
        ("mamba2", {"kernel": 0}, "kernel is 0"),
        ("abc", {"heads": 3}, "heads is 3"),
        ("abc", {"slots": 0}, "slots is 0"),
        ("mlstm", {"heads": 3}, "heads is 3"),
        ("mlstm", {"block": 5}, "block is 5"),
        ("mlstm", {"kernel": None}, "kernel is None"),
    ],
)
def test_wrong_options_are_named(name, options, words):
    with pytest.raises(recurra.InputError, match=words):
        recurra.layer(name, D, **options)


# --- other people's implementations, with the same random weights -----------------------------------------------------
@pytest.mark.parametrize(("groups", "time"), [(1, 37), (2, 16)])
@pytest.mark.usefixtures("all_in_double")
def test_mamba2_is_that_of_transformers(groups, time):
    peer = pytest.importorskip("transformers.models.mamba2.modeling_mamba2")
    config = pytest.importorskip("transformers").Mamba2Config(
        hidden_size=32, num_heads=8, head_dim=8, state_size=16, n_groups=groups, num_hidden_layers=1, chunk_size=8
    )
    theirs = peers.scattered(peer.Mamba2Mixer(config, layer_idx=0), torch.float64)
    ours = recurra.layer("mamba2", 32, state_size=16, head_size=8, groups=groups).double()
    own = dict(theirs.named_parameters())
    weights = {
        "to_inner.weight": own["in_proj.weight"],
        "conv_weight": own["conv1d.weight"].squeeze(1), "conv_bias": own["conv1d.bias"], "dt_bias": own["dt_bias"],
        "A_log": own["A_log"], "D": own["D"], "norm_weight": own["norm.weight"],
        "to_output.weight": own["out_proj.weight"],
    }  # fmt: skip
    peers.same(ours, weights, theirs, torch.randn(2, time, 32, dtype=torch.float64))


def test_mlstm_core_is_that_of_xlstm():
    """Against their steps. Their parallel form adds its 1e-6 to numbers of another scale, and so differs from both."""
    backends = pytest.importorskip("xlstm.blocks.mlstm.backends")
    layer = peers.scattered(recurra.layer("mlstm", 32), torch.float64)
    problem = layer.problem(torch.randn(2, 40, 32, dtype=torch.float64))
    leaves = {name: problem.inputs[name].tensor.detach().requires_grad_() for name in "qkvif"}
    inputs = {name: replace(entry, tensor=leaves.get(name, entry.tensor)) for name, entry in problem.inputs.items()}
    y = run(replace(problem, inputs=inputs), "auto").y[:, :, :, 0]
    q, k, v, i, f = (leaf.transpose(1, 2) for leaf in leaves.values())
    i, f = i[..., None], f[..., None]
    state, steps = [q.new_zeros(2, 4, *shape) for shape in ((q.shape[-1],) * 2, (q.shape[-1], 1), (1, 1))], []
    for t in range(40):
        now = (z[:, :, t : t + 1].clone() for z in (q, k, v, i, f))
        h, state = backends.recurrent_step_stabilized_simple(*state, *now)
        steps.append(h[:, :, 0])
    expected = torch.stack(steps, 1)
    peers.close("y", y, expected)
    peers.close("parallel form", y.float(), backends.parallel_stabilized_simple(q, k, v, i, f).transpose(1, 2).float())
    slope = torch.randn_like(y)
    found, wanted = (torch.autograd.grad(z, list(leaves.values()), slope) for z in (y, expected))
    for name, *gradients in zip(leaves, found, wanted, strict=True):
        peers.close(f"gradient of {name}", *gradients)


def test_mlstm_layer_is_that_of_xlstm():
    peer = pytest.importorskip("xlstm.blocks.mlstm.layer")
    theirs = peers.scattered(peer.mLSTMLayer(peer.mLSTMLayerConfig(embedding_dim=32, context_length=40)), torch.float64)
    own = dict(theirs.named_parameters())
    signal, gate = own["proj_up.weight"].chunk(2)
    weights = {
        "to_signal.weight": signal, "to_gate.weight": gate, "to_output.weight": own["proj_down.weight"],
        "conv_weight": own["conv1d.conv.weight"].squeeze(1), "conv_bias": own["conv1d.conv.bias"],
        "norm_weight": 1 + own["mlstm_cell.outnorm.weight"], "skip": own["learnable_skip"],
    }  # fmt: skip
    weights |= {f"to_{name}": own[f"{name[0]}_proj.weight"] for name in ("query", "key", "value")}
    for name, gate in (("to_input", "igate"), ("to_forget", "fgate")):
        weights |= {f"{name}.{end}": own[f"mlstm_cell.{gate}.{end}"] for end in ("weight", "bias")}

    def by_steps(x):
        outputs, state = [], {}
        for x_t in x.split(1, 1):
            # They write over the window of their convolution, which its gradient reads.
            state = {name: [part.clone() for part in parts] for name, parts in state.items()}
            y, state = theirs.step(x_t, **state)
            outputs.append(y)
        return torch.cat(outputs, 1)

    x = torch.randn(2, 40, 32, dtype=torch.float64)
    peers.same(recurra.layer("mlstm", 32).double(), weights, theirs, x, by_steps)
    peers.close("parallel form", theirs(x).float(), by_steps(x).float())
