"""Titans' memory as a context, as a gate and as a layer: against their equations, and one function in every form."""

import pytest
import torch
from torch.nn.functional import rms_norm, silu

import recurra
from recurra.models.titans import MemoryAsContext, MemoryAsGate, MemoryAsLayer, PersistentWindow
from recurra.testing.laws import LAWS
from recurra.testing.tolerances import assert_close

D, B, T = 8, 3, 11


def scattered(module):
    module = module.double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return module


def drawn(time=T):
    return torch.randn(B, time, D, dtype=torch.float64)


def unit(x):
    return x / (x.square().sum(-1, keepdim=True) + 1e-6).sqrt()


def attention(q, keys, values, heads):
    """q [B, D] to keys and values [B, S, D], head by head."""
    parts = [part.unflatten(-1, (heads, -1)).transpose(-2, -3) for part in (q[:, None], keys, values)]
    return torch.nn.functional.scaled_dot_product_attention(*parts).transpose(-2, -3).flatten(-2)[:, 0]


def windowed(layer, x):
    q, k, v = layer.to_qkv(x).chunk(3, -1)
    fixed = [layer.persistent[:, i].transpose(0, 1).flatten(1).expand(B, -1, -1) for i in range(2)]
    out = []
    for t in range(T):
        seen = slice(max(0, t - layer.window + 1), t + 1)
        keys, values = (torch.cat([p, z[:, seen]], 1) for p, z in zip(fixed, (k, v), strict=True))
        out.append(attention(q[:, t], keys, values, layer.heads))
    return layer.to_output(torch.stack(out, 1))


def read(M, x):
    for weight in M[:-1]:
        x = silu((weight @ x[..., None])[..., 0])
    return (M[-1] @ x[..., None])[..., 0]


def memory_as_context(layer, x):
    """Segment by segment; the inner gradient by autograd."""
    M = [weight.expand(B, -1, -1) for weight in layer.memory]
    S, out = [torch.zeros_like(weight) for weight in M], []
    fixed = [p.expand(B, -1, -1) for p in layer.persistent]
    for start in range(0, T, layer.segment):
        segment = x[:, start : start + layer.segment]
        h = torch.stack([read(M, unit(layer.to_read(segment[:, t]))) for t in range(segment.shape[1])], 1)
        q = layer.to_qkv(segment).chunk(3, -1)[0]
        for t in range(segment.shape[1]):
            context = torch.cat([h[:, : t + 1], segment[:, : t + 1]], 1)
            _, keys, values = layer.to_qkv(context).chunk(3, -1)
            keys, values = torch.cat([fixed[0], keys], 1), torch.cat([fixed[1], values], 1)
            y = layer.to_output(attention(q[:, t], keys, values, layer.heads))
            q_m, k_m, v_m = layer.to_memory(y).chunk(3, -1)
            rates = torch.sigmoid(y @ layer.rate_weight.T + layer.rate_bias)[..., None, None]
            alpha, eta, theta = rates.unbind(1)
            leaves = [weight.detach().requires_grad_() for weight in M]
            with torch.enable_grad():
                slopes = torch.autograd.grad((read(leaves, unit(k_m)) - v_m).square().sum(), leaves)
            S = [eta * s - theta * slope for s, slope in zip(S, slopes, strict=True)]
            M = [(1 - alpha) * m + s for m, s in zip(M, S, strict=True)]
            norms = [norm.weight for norm in layer.norms]
            m = rms_norm(read(M, unit(q_m)), (D,), norms[1], 1e-5)
            out.append(rms_norm(y, (D,), norms[0], 1e-5) * torch.sigmoid(m))
    return torch.stack(out, 1)


def memory_as_gate(layer, x):
    y, m = windowed(layer.attention, x), layer.memory(x)[0]
    y, m = (rms_norm(z, (D,), n.weight, 1e-5) for z, n in ((y, layer.attention_norm), (m, layer.memory_norm)))
    return y * torch.sigmoid(m)


def memory_as_layer(layer, x):
    return windowed(layer.attention, layer.memory(x)[0])


KINDS = {
    "window": (lambda: PersistentWindow(D, 2, 3, 2), windowed),
    "window-of-one": (lambda: PersistentWindow(D, 2, 1, 2), windowed),
    "context": (lambda: MemoryAsContext(D, 2, 4, 2), memory_as_context),
    "shallow-context": (lambda: MemoryAsContext(D, 1, 1, 3, depth=1), memory_as_context),
    "gate": (lambda: MemoryAsGate(D, 2, 3, 2), memory_as_gate),
    "layer": (lambda: MemoryAsLayer(D, 4, 1, 1), memory_as_layer),
}


@pytest.mark.parametrize("kind", KINDS)
def test_is_its_paper(kind):
    make, equations = KINDS[kind]
    layer, x = scattered(make()), drawn()
    with torch.no_grad():
        assert_close("y", layer(x)[0], equations(layer, x))


@pytest.mark.parametrize("kind", ["context", "gate", "layer"])
def test_streamed_and_cut_is_whole(kind):
    layer, x = scattered(KINDS[kind][0]()), drawn()
    with torch.no_grad():
        y, end = layer(x)
        state, steps = None, []
        for t in range(T):
            y_t, state = layer.advance(x[:, t], state)
            steps.append(y_t)
        assert_close("streamed", torch.stack(steps, 1), y)
        first, state = layer(x[:, :5])
        second, state = layer(x[:, 5:], state)
        assert_close("cut", torch.cat([first, second], 1), y)
        assert set(end) == set(layer.initial_state(1))
        for name, value in end.items():
            assert_close(name, state[name], value)


@pytest.mark.parametrize("kind", ["context", "gate", "layer"])
def test_packed_and_padded(kind):
    layer, x = scattered(KINDS[kind][0]()), drawn()
    resets = torch.zeros(B, T, dtype=torch.bool)
    resets[:, 6] = True
    y, _ = layer(x, resets=resets)
    assert_close("first sequence", y[:, :6], layer(x[:, :6])[0])
    assert_close("second sequence", y[:, 6:], layer(x[:, 6:])[0])
    poisoned = x.clone()
    poisoned[0, 4:], poisoned[1] = float("nan"), float("inf")
    y, state = layer(poisoned, lengths=torch.tensor([4, 0, T]))
    alone, end = layer(x[:1, :4])
    assert_close("valid part", y[:1, :4], alone)
    assert not y[0, 4:].any()
    assert not y[1].any()
    for name, value in end.items():
        assert_close(name, state[name][:1], value)
    y.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in layer.parameters())


@pytest.mark.parametrize("law", ["same_as_reference", "packed_and_padded", "nan_stays_where_it_is", "any_shape"])
@pytest.mark.parametrize("kind", ["window", "window-of-one", "shallow-context"])
def test_recurrences_keep_the_laws(kind, law):
    LAWS[law](lambda: scattered(KINDS[kind][0]()), "compiled", torch.float64)


@pytest.mark.parametrize("kind", ["context", "gate", "layer"])
def test_every_weight_learns(kind):
    layer = scattered(KINDS[kind][0]())
    layer(drawn())[0].square().sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in layer.parameters())


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: MemoryAsContext(D, heads=3), "heads is 3; expected a divisor of the width 8"),
        (lambda: MemoryAsContext(D, segment=0), "segment is 0; expected a positive int"),
        (lambda: MemoryAsGate(D, window=1.5), "window is 1.5; expected a positive int"),
        (lambda: MemoryAsLayer(D, persistent=-1), "persistent is -1; expected a positive int"),
        (lambda: MemoryAsLayer(0), "width is 0; expected a positive int"),
        (lambda: MemoryAsGate(D)(torch.zeros(2, 3, 9)), r"expects \[B, T, 8\]"),
    ],
)
def test_wrong_arguments_are_named(make, words):
    with pytest.raises(recurra.InputError, match=words):
        make()
