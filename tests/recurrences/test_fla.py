"""The cores of matrix memories against the naive references of flash-linear-attention, on the same q, k, v and gates.

Those references compute in float32, so that is what is compared. They are read from their files: importing the package
asks for a GPU.
"""

import importlib.util
import inspect
import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from peers import LIMITS, close
from torch.nn.functional import logsigmoid, silu, softplus

import recurra
from recurra.attention import loop
from recurra.engines.choose import run
from recurra.windows import Past

WIDTH, BATCH, TIME = 32, 2, 37


def naive(operation, file="naive"):
    """The module of naive references for one operation; skips the test where the package is not installed."""
    pytest.importorskip("einops")
    package = importlib.util.find_spec("fla")
    if package is None:
        pytest.skip("flash-linear-attention is not installed")
    path = Path(package.submodule_search_locations[0]) / "ops" / operation / f"{file}.py"
    spec = importlib.util.spec_from_file_location("naive_" + operation.replace("/", "_"), path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def core(name, **options):
    """A layer with every parameter scattered, its problem, and the values its step reads, by name."""
    layer = recurra.layer(name, WIDTH, **options)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
        problem = layer.problem(torch.randn(BATCH, TIME, WIDTH))
    values = {name: entry.tensor.requires_grad_() for name, entry in problem.inputs.items()}
    return layer, problem, values


def same(problem, expected):
    """The steps give `expected` [B, T, heads, ...], all at once and one after the other, and its gradients.

    Those are of what the steps read, where it asks for one.
    """
    y, slope = run(problem, "auto").y, torch.randn_like(expected)
    close("y", y, expected)
    leaves = {name: entry.tensor for name, entry in problem.inputs.items() if entry.tensor.requires_grad}
    if leaves:
        into = list(leaves.values())
        found, wanted = (torch.autograd.grad(z, into, slope, materialize_grads=True) for z in (y, expected))
        for name, *gradients in zip(leaves, found, wanted, strict=True):
            close(f"gradient of {name}", *gradients)
    with torch.no_grad():
        state = problem.state
        for t in range(problem.time):
            inputs = {
                name: replace(entry, tensor=entry.tensor[:, t : t + 1]) if entry.per_time else entry
                for name, entry in problem.inputs.items()
            }
            rollout = run(replace(problem, inputs=inputs, state=state, time=1), "auto")
            assert (rollout.y[:, 0] - expected[:, t]).abs().max() <= LIMITS[y.dtype] * expected.abs().max()
            state = rollout.state


def attended(name, **options):
    """An attention layer with every parameter scattered, a call of it, and the values its step reads, by name."""
    layer = recurra.layer(name, WIDTH, **options)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
        x, state = torch.randn(BATCH, TIME, WIDTH), layer.initial_state(BATCH)
        call = layer.prepare(x, state, Past(layer.windows, state, None, None), None, None, {})
    return layer, call, {name: value.requires_grad_() for name, value in call.inputs.items()}


def attends(layer, call, expected):
    """Its engines give `expected` [B, T, heads, K], and its gradients."""
    leaves, slope = list(call.inputs.values()), torch.randn_like(expected)
    wanted = torch.autograd.grad(expected, leaves, slope, materialize_grads=True)
    for run_all in (layer.parallel, partial(loop.run, layer)):
        y = run_all(call)[0]
        close("y", y, expected)
        for name, *gradients in zip(call.inputs, torch.autograd.grad(y, leaves, slope), wanted, strict=True):
            close(f"gradient of {name}", *gradients)


def by_head(*tensors):
    """[B, T, heads, ...] to [B, heads, T, ...]."""
    return [tensor.transpose(1, 2) for tensor in tensors]


@pytest.mark.parametrize("feature_map", ["elu", "hedgehog"])
def test_linear_attention_core_is_that_of_fla(feature_map):
    """They add 1e-10 to the denominator, where we follow the paper's code and add 1e-6: it is one more value here."""
    _, problem, z = core("linear-attention", feature_map=feature_map)
    q, k = (
        torch.nn.functional.elu(u) + 1 if feature_map == "elu" else torch.cat([2 * u, -2 * u], -1).softmax(-1)
        for u in (z["q"], z["k"])
    )
    v = torch.nn.functional.pad(z["v"], (0, 1), value=1.0)
    sums = naive("linear_attn").naive_recurrent_linear_attn(q, k, v, scale=1.0)[0]
    same(problem, sums[..., :-1] / (sums[..., -1:] + 1e-6))


def test_based_core_is_that_of_fla():
    _, problem, z = core("based", features=8)
    same(problem, naive("based").naive_parallel_based(*by_head(z["q"], z["k"], z["v"])).transpose(1, 2))


def test_retnet_core_is_that_of_fla():
    """Theirs leaves the rotation to the layer: q and k are turned by t theta before, where our state turns. Decays are
    fixed."""
    _, problem, z = core("retnet")
    z["gamma"].requires_grad_(False)
    angle = torch.arange(TIME)[:, None, None] * z["theta"]
    q, k = (torch.view_as_real(torch.view_as_complex(u) * torch.polar(torch.ones_like(angle), angle)).flatten(-2)
            for u in (z["q"], z["k"]))  # fmt: skip
    same(problem, naive("retention").naive_retention(*by_head(q, k, z["v"])).transpose(1, 2))


def test_gla_core_is_that_of_fla():
    layer, problem, z = core("gla")
    log_decay = logsigmoid(z["forget"]) / layer.temperature
    same(problem, naive("gla").naive_recurrent_gla(z["q"], z["k"], z["v"], log_decay)[0])


def test_hgrn_core_is_that_of_fla():
    _, problem, z = core("hgrn", rotate=False, lower_bound=0.2)
    f = 0.2 + 0.8 * torch.sigmoid(z["forget"])
    same(problem, naive("hgrn").naive_recurrent_hgrn((1 - f) * silu(z["c"]), f.log())[0])


def test_hgrn2_core_is_that_of_fla():
    """Their layer runs gated linear attention, which divides queries by sqrt(K); HGRN2 does not."""
    layer, problem, z = core("hgrn2", head_size=8, lower_bound=0.2)
    f = 0.2 + 0.8 * torch.sigmoid(z["forget"])
    q = torch.sigmoid(z["query"]) * layer.size**0.5
    same(problem, naive("gla").naive_recurrent_gla(q, 1 - f, silu(z["admit"]), f.log())[0])


@pytest.mark.parametrize("form", ["recurrent", "parallel", "chunk"])
def test_mamba2_core_is_that_of_fla(form):
    layer, problem, z = core("mamba2", head_size=8, groups=2, state_size=5)
    dt = softplus(z["dt"])
    memory = getattr(naive("simple_gla"), f"naive_{form}_simple_gla")
    y = memory(z["C"], z["B"], dt[..., None] * z["u"], dt * z["A"], scale=1.0)[0]
    same(problem, (y + layer.D[:, None] * z["u"]) * silu(z["gate"]))


def test_log_linear_mamba2_core_is_that_of_fla():
    layer, problem, z = core("log-linear-mamba2", head_size=8, state_size=5)
    dt = softplus(z["dt"])
    B, C = (z[name][:, :, None].expand(-1, -1, 8, -1) for name in ("B", "C"))
    y = naive("log_linear_attn").naive_log_linear_attn(C, B, dt[..., None] * z["u"], dt * z["A"], z["share"])
    same(problem, (y + layer.D[:, None] * z["u"]) * silu(z["gate"]))


@pytest.mark.parametrize("negative", [False, True])
def test_delta_net_core_is_that_of_fla(negative):
    """Theirs divides queries by sqrt(K), which the paper, and ours, does not."""
    layer, problem, z = core("delta-net", negative_eigenvalues=negative)
    q, k, v, beta = by_head(z["q"] * layer.size**0.5, z["k"], z["v"], z["beta"])
    same(problem, naive("delta_rule").delta_rule_recurrence(q, k, v, beta)[0].transpose(1, 2))


@pytest.mark.parametrize("form", ["recurrent", "chunk"])
def test_gated_delta_net_core_is_that_of_fla(form):
    _, problem, z = core("gated-delta-net", heads=4, key_heads=2, key_size=6, value_size=10)
    memory = getattr(naive("gated_delta_rule"), f"naive_{form}_gated_delta_rule")
    same(problem, memory(z["q"], z["k"], z["v"], beta=z["beta"], g=z["log_decay"], scale=1.0)[0])


@pytest.mark.parametrize("forget", [False, True])
@pytest.mark.parametrize("householders", [1, 3])
def test_delta_product_core_is_that_of_fla(householders, forget):
    """They lay the corrections of a time step one after the other in time."""
    _, problem, z = core("delta-product", householders=householders, forget=forget)
    k, v, beta = (z[name].transpose(2, 3).flatten(1, 2) for name in ("k", "v", "beta"))
    memory = naive("gated_delta_product").naive_recurrent_gated_delta_product
    more = {"cu_seqlens": None} if "cu_seqlens" in inspect.signature(memory).parameters else {}
    decay = z.get("log_decay")
    same(problem, memory(z["q"], k, v, decay, beta, scale=1.0, num_householder=householders, **more)[0])


def test_rwkv7_core_is_that_of_fla():
    """As theirs, a decay with a correction of rank one, here with -kappa and a kappa; norm, bonus and gate follow."""
    layer, problem, z = core("rwkv7")
    kappa = torch.nn.functional.normalize(z["k"] * z["k_k"], dim=-1)
    a, log_w = torch.sigmoid(z["a"]), -math.exp(-0.5) * torch.sigmoid(z["w"])
    k = z["k"] * (1 + (a - 1) * z["k_a"])
    r = z["r"] * layer.size**0.5
    o, _ = naive("generalized_delta_rule/dplr").dplr_recurrence(*by_head(r, k, z["v"], -kappa, a * kappa, log_w))
    normed = torch.nn.functional.layer_norm(o.transpose(1, 2), (layer.size,), eps=64e-5)
    bonus = (z["r"] * layer.rho * k).sum(-1, keepdim=True) * z["v"]
    same(problem, z["g"] * (normed * layer.norm_weight + layer.norm_bias + bonus))


def test_kimi_delta_attention_core_is_that_of_fla():
    _, problem, z = core("kimi-delta-attention")
    values = (z[name] for name in ("q", "k", "v", "log_decay", "beta"))
    same(problem, naive("kda").naive_recurrent_kda(*values, scale=1.0)[0])


def test_gated_delta_net_2_core_is_that_of_fla():
    _, problem, z = core("gated-delta-net-2")
    values = (z[name] for name in ("q", "k", "v", "log_decay", "erase", "write"))
    same(problem, naive("gdn2").naive_recurrent_gdn2(*values, scale=1.0)[0])


def test_comba_core_is_that_of_fla():
    _, problem, z = core("comba")
    values = (z[name] for name in ("r", "k", "v", "p", "beta", "log_decay"))
    same(problem, naive("comba").naive_recurrent_comba(*values, scale=1.0)[0])


@pytest.mark.parametrize("name", ["preconditioned-kda", "preconditioned-gated-delta-net"])
def test_preconditioned_cores_are_those_of_fla(name):
    """Their reference of the Gated DeltaNet brings q and k to length one once more, so that of KDA serves for both."""
    _, problem, z = core(name)
    decay = z["log_decay"] if name == "preconditioned-kda" else z["log_decay"][..., None].expand_as(z["k"])
    given = z["q"], z["k"], z["v"], decay, z["forget"], z["admit"], z["beta"]
    same(problem, naive("precond_kda").naive_recurrent_precond_kda(*given, scale=1.0, log_atk_scale=z["centre"])[0])


def test_mesa_net_core_is_that_of_fla():
    _, problem, z = core("mesa-net", heads=4, iterations=7)
    step, state, outputs = naive("mesa_net").naive_mesa_net_decoding_one_step, 2 * [torch.zeros(BATCH, 4, 8, 8)], []
    for t in range(TIME):
        q, k, v, g, beta = (z[name][:, t] for name in ("q", "k", "v", "g", "beta"))
        o, *state = step(q, k, v, g.log(), z["ridge"], beta, *state, max_CG_iteration=7)
        outputs.append(o)
    same(problem, torch.stack(outputs, 1))


def test_gated_slot_attention_core_is_that_of_fla():
    layer, problem, z = core("gated-slot-attention", slots=6)
    f = logsigmoid(z["forget"]) / layer.temperature
    same(problem, naive("gsa").naive_recurrent_gsa(z["q"], z["k"], z["v"], 1 - f.exp(), f, scale=1.0)[0])


@pytest.mark.parametrize("form", ["recurrent", "cumsum"])
def test_abc_core_is_that_of_fla(form):
    _, problem, z = core("abc", slots=6)
    values = by_head(z["q"], z["k"], z["v"], z["s"])
    same(problem, getattr(naive("abc"), f"naive_{form}_abc")(*values)[0].transpose(1, 2))


def test_raven_core_is_that_of_fla():
    _, problem, z = core("raven", slots=6, active=3)
    f = z["log_decay"]
    same(problem, naive("gsa").naive_recurrent_gsa(z["q"], z["k"], z["v"], 1 - f.exp(), f, scale=1.0)[0])


def test_light_net_core_is_that_of_fla():
    """Their layer brings keys to weights and decays by the running sum, then runs gated linear attention."""
    _, problem, z = core("light-net")
    total = z["k"].logcumsumexp(1)
    decay = torch.cat([total[:, :1], total[:, :-1]], 1) - total
    same(problem, naive("gla").naive_recurrent_gla(z["q"], torch.exp(z["k"] - total), z["v"], decay)[0])


def test_lightning_attention_core_is_that_of_fla():
    _, problem, z = core("lightning-attention")
    decay = -z["slope"].expand(BATCH, TIME, -1)
    same(problem, naive("simple_gla").naive_recurrent_simple_gla(z["q"], z["k"], z["v"], decay, scale=1.0)[0])


@pytest.mark.parametrize("name", ["rwkv5", "rwkv6"])
def test_rwkv6_core_is_that_of_fla(name):
    """Norm and gate follow. The decays of RWKV-5 are the same at all time steps."""
    layer, problem, z = core(name)
    values = by_head(z["r"], z["k"], z["v"], -torch.exp(z["w"]).expand_as(z["k"]))
    o = naive("rwkv6", "recurrent_naive").naive_recurrent_rwkv6(*values, z["u"], scale=1.0)[0].transpose(1, 2)
    normed = torch.nn.functional.layer_norm(o, (layer.size,), eps=64e-5)
    same(problem, silu(z["g"]) * (normed * z["weight"] + z["bias"]))


def test_ttt_linear_core_is_that_of_fla():
    """Mini-batches of one. Their rate counts the 2 of the squares' slope, and to the layer norm of what the model gives
    they add that itself, z = m(q) + layernorm(m(q)), where the paper and its authors' code add q."""
    layer, problem, z = core("ttt-linear")
    memory = naive("ttt").chunk_ttt_linear_ref
    W, b = layer.W1.mT.expand(BATCH, -1, -1, -1), layer.b1[:, None].expand(BATCH, -1, -1, -1)
    models, outputs = [], []
    for t in range(1, TIME + 1):
        q, k, v, rate = (z[name][:, :t] for name in ("q", "k", "v", "rate"))
        y, W_t, b_t = memory(
            q.clone(), k, v, layer.norm_weight, layer.norm_bias, 2 * rate[..., None], scale=1.0,
            mini_batch_size=1, initial_state=W, initial_state_bias=b, output_final_state=True,
        )  # fmt: skip
        models.append((q[:, -1, :, None] @ W_t + b_t)[:, :, 0])
        outputs.append(y[:, -1])
    same(problem, torch.stack(outputs, 1) - torch.stack(models, 1) + z["q"])


@pytest.mark.parametrize("forget", [False, True])
def test_path_attention_core_is_that_of_fla(forget):
    """They scale what entries have faded by as well as the scores."""
    layer, call, z = attended("path-attention", forget=forget)
    scale = layer.size**-0.5
    fades = z["log_gate"] / scale if forget else torch.zeros(BATCH, TIME, layer.heads)
    values = (z[name] for name in ("q", "k", "v", "w", "beta"))
    attends(layer, call, naive("path_attn").naive_path_attn(*values, fades, scale, chunk_size=16))


def test_delta_former_core_is_that_of_fla():
    layer, call, z = attended("delta-former")
    values = (z[name] for name in ("q", "k", "v", "rate"))
    attends(layer, call, naive("deltaformer").naive_deltaformer_attn(*values))


@pytest.mark.parametrize("window", [None, 5])
def test_parallax_core_is_that_of_fla(window):
    layer, call, z = attended("parallax", key_heads=2, window=window)
    q, r = z["q"].flatten(2, 3).chunk(2, -1)
    expected = naive("parallax").naive_parallax(q, r, z["k"], z["v"], window_size=window)
    attends(layer, call, expected.unflatten(2, (2, -1)))
