"""The same numbers in every context that PyTorch has, or a refusal by name; and none after it, in plain calls."""

import copy

import pytest
import torch
from torch.autograd import forward_ad
from torch.func import functional_call, grad, jacrev, jvp, stack_module_state, vjp, vmap

import recurra
from recurra.engines.choose import observe
from recurra.testing.tolerances import assert_close

LAYERS = list(recurra.layers())
FAST = ["rnn", "lstm", "min-gru", "mamba", "gated-delta-net", "s5", "lmu", "attention"]
B, T, D = 3, 4, 8
pytestmark = [
    pytest.mark.filterwarnings("ignore:running the slow reference loop|replaying the step"),
    pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"),  # PyTorch's own, in forward mode
]


def loss(layer, x, engine="auto", state=None):
    y, after = layer(x, state, engine=engine)
    return y.square().sum() + sum(t.abs().sum() for t in after.values() if t.is_floating_point())


def reference(layer, x):
    """The gradients of `loss` by x and by every parameter, from the reference loop, by plain autograd."""
    x = x.clone().requires_grad_()
    weights = dict(layer.named_parameters())
    found = torch.autograd.grad(loss(layer, x, "loop"), [x, *weights.values()], allow_unused=True)
    pairs = zip(found, [x, *weights.values()], strict=True)
    first, *others = (torch.zeros_like(t) if g is None else g for g, t in pairs)
    return first, dict(zip(weights, others, strict=True))


def functional(layer):
    weights = {name: p.detach() for name, p in layer.named_parameters()}

    def run(weights, x):
        y, after = functional_call(layer, weights, (x,))
        return y.square().sum() + sum(t.abs().sum() for t in after.values() if t.is_floating_point())

    return run, weights


def by_grad_of_x(layer, x):
    assert_close("x", grad(lambda x: loss(layer, x))(x), reference(layer, x)[0])


def by_grad_of_weights(layer, x):
    run, weights = functional(layer)
    expected = reference(layer, x)[1]
    for name, found in grad(run)(weights, x).items():
        assert_close(name, found, expected[name])


def by_gradients_of_samples(layer, x):
    run, weights = functional(layer)
    found = vmap(grad(run), in_dims=(None, 0))(weights, x[:, None])
    for b in range(B):
        for name, expected in reference(layer, x[b : b + 1])[1].items():
            assert_close(name, found[name][b], expected)


def by_vmap(layer, x):
    found = vmap(lambda x: layer(x)[0], in_dims=1, out_dims=1)(x[:, None].expand(B, 2, T, D))
    assert_close("y", found, layer(x, engine="loop")[0][:, None].expand(B, 2, T, -1))


def by_vmap_of_lengths(layer, x):
    lengths, resets = torch.randint(0, T + 1, (2, B)), torch.rand(2, B, T) < 0.3
    mapped = vmap(lambda n, r: layer(x, lengths=n, resets=r)[0])
    if layer.growing:
        with pytest.raises(recurra.EngineRefused, match="rows of one batch"):
            mapped(lengths, resets)
        return
    for found, n, r in zip(mapped(lengths, resets), lengths, resets, strict=True):
        assert_close("y", found, layer(x, lengths=n, resets=r, engine="loop")[0])
    with pytest.raises(recurra.InputError, match=rf"lengths\[1, 0\] is {T + 1}; expected 0 to {T}"):
        mapped(torch.tensor([[0] * B, [T + 1] * B]), resets)


def by_an_ensemble(layer, x):
    other = copy.deepcopy(layer)
    with torch.no_grad():
        for p in other.parameters():
            p.mul_(1.25)
    weights, buffers = stack_module_state([layer, other])
    found = vmap(lambda w, b: functional_call(layer, (w, b), (x,))[0])(weights, buffers)
    for i, one in enumerate((layer, other)):
        assert_close("y", found[i], one(x, engine="loop")[0])


def by_vjp_of_the_state(layer, x):
    state = layer(x)[1]
    own = {name: t.detach() for name, t in state.items() if t.is_floating_point() or t.is_complex()}
    fixed = {name: t for name, t in state.items() if name not in own}
    found = vjp(lambda own: loss(layer, x, state={**own, **fixed}), own)[1](torch.tensor(1.0, dtype=x.dtype))[0]
    leaves = {name: t.clone().requires_grad_() for name, t in own.items()}
    expected = torch.autograd.grad(
        loss(layer, x, "loop", {**leaves, **fixed}), list(leaves.values()), allow_unused=True
    )
    for name, e in zip(own, expected, strict=True):
        assert_close(name, found[name], torch.zeros_like(own[name]) if e is None else e)


def by_jvp(layer, x):
    _, found = jvp(lambda x: loss(layer, x), (x,), (torch.ones_like(x),))
    assert_close("tangent", found, reference(layer, x)[0].sum())


def in_forward_mode(layer, x):
    with torch.no_grad(), forward_ad.dual_level():
        y = layer(forward_ad.make_dual(x, torch.ones_like(x)))[0]
        found = forward_ad.unpack_dual(y).tangent
    _, expected = jvp(lambda x: layer(x, engine="loop")[0], (x,), (torch.ones_like(x),))
    assert_close("tangent", found, expected)


def by_many_gradients_at_once(layer, x):
    x = x.clone().requires_grad_()
    y, seeds = layer(x)[0], torch.eye(2, dtype=x.dtype)
    picked = torch.stack([y.sum(), y.square().sum()])
    found = torch.autograd.grad(picked, x, seeds, is_grads_batched=True)[0]
    y = layer(x, engine="loop")[0]
    for i, one in enumerate((y.sum(), y.square().sum())):
        assert_close("x", found[i], torch.autograd.grad(one, x, retain_graph=True)[0])


def by_a_hessian(layer, x):
    f = lambda engine: jacrev(jacrev(lambda x: loss(layer, x, engine)))(x[:1, :2])  # noqa: E731
    assert_close("hessian", f("auto"), f("loop"))


def without_memory(layer, x):
    if layer.growing:
        with pytest.raises(recurra.EngineRefused, match="meta"):
            copy.deepcopy(layer).to("meta")(x.to("meta"))
        return
    y = copy.deepcopy(layer).to("meta")(x.to("meta"))[0]
    assert y.is_meta
    assert y.shape == layer(x)[0].shape


def negated(layer, x):
    y = layer(torch._neg_view(x))[0]
    assert_close("y", y, layer(-x, engine="loop")[0])


CONTEXTS = [
    by_grad_of_x, by_grad_of_weights, by_gradients_of_samples, by_vmap, by_vmap_of_lengths, by_an_ensemble,
    by_vjp_of_the_state, by_jvp, in_forward_mode, by_many_gradients_at_once, without_memory, negated,
]  # fmt: skip
CASES = [
    pytest.param(name, context, marks=() if name in FAST else pytest.mark.slow)
    for name in LAYERS
    for context in CONTEXTS
]


@pytest.mark.parametrize(("name", "context"), CASES, ids=lambda v: v if isinstance(v, str) else v.__name__)
def test_the_same_function(name, context):
    """Twice, since what the first call finds out is kept; then a plain call, with other weights."""
    torch.manual_seed(0)
    layer = recurra.layer(name, D).double()
    for _ in range(2):
        context(layer, torch.randn(B, T, D, dtype=torch.float64))
    with torch.no_grad():
        for p in layer.parameters():
            p.mul_(1.1)
    x = torch.randn(B, T, D, dtype=torch.float64)
    with observe() as seen:
        y = layer(x)[0]
    assert seen[0] != "loop"
    assert_close("y", y, layer(x, engine="loop")[0])


@pytest.mark.parametrize("name", ["rnn", "mamba"])
def test_a_hessian(name):
    torch.manual_seed(0)
    by_a_hessian(recurra.layer(name, 4).double(), torch.randn(1, 2, 4, dtype=torch.float64))


class OnlyOutput(torch.nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x)[0]


@pytest.mark.filterwarnings("ignore")
def test_jit_trace_is_refused():
    layer = OnlyOutput(recurra.layer("gru", 4))
    with pytest.raises(recurra.InputError, match=r"torch\.export"):
        torch.jit.trace(layer, torch.randn(1, 3, 4))
