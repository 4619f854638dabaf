"""The kernels of the chunkwise engine, in float32, against the same equations by PyTorch in float64."""

import pytest
import torch

import recurra
from recurra.compiler.targets import host
from recurra.engines.chunkwise import fused
from recurra.engines.kernels import batched, chunks
from recurra.testing.tolerances import assert_close

pytestmark = pytest.mark.skipif(host.vector_bytes() < 64, reason="the kernels take vectors of 64 bytes")
C = fused.CHUNK
MASK = torch.cat([torch.ones(C, C).tril(-1), torch.ones(C, C).tril()])


def drawn(form, keys, values):
    """Three chunks of two heads of one sequence: what `fused.passed` takes, of the size that layers make."""
    rows, lead = C if form == "adds" else 2 * C, (3, 1, 2)
    mask = MASK[C:] if form == "adds" else MASK
    given = {
        "scores": 0.1 * torch.randn(*lead, rows, C) * mask,
        "v": torch.randn(*lead, C, values),
        "both": torch.randn(*lead, rows, keys) / keys**0.5,
        "take": torch.randn(*lead, C, keys) / keys,
        "since": torch.rand(*lead, C, 1),
        "until": torch.rand(*lead, C, 1),
        "through": torch.rand(*lead, 1, keys),
        "S": torch.randn(1, 2, values, keys),
    }
    if form == "takes":
        given |= {"mixed": 0.1 * torch.randn(*lead, rows, C) * mask, "k": torch.randn(*lead, C, keys) / keys}
    return given


def by_hand(scores, v, both, take, since, until, through, S, mixed=None, k=None):
    """The equations, a chunk at a time."""
    o = []
    for n in range(len(v)):
        reads, U, written = torch.cat([since[n]] * (both.shape[-2] // C), -2) * (both[n] @ S.mT), v[n], 0
        if k is not None:
            reads, U, written = reads + mixed[n] @ v[n], 0, v[n].mT @ (until[n] * k[n])
        if both.shape[-2] > C:
            L = scores[n, ..., :C, :]
            U = torch.linalg.solve_triangular(torch.eye(C) + L, U - reads[..., :C, :], upper=False)
        o.append(reads[..., -C:, :] + scores[n, ..., -C:, :] @ U)
        S = S * through[n] + U.mT @ (until[n] * take[n]) + written
    return torch.stack(o), S


@pytest.mark.parametrize("form", ["adds", "corrects", "takes"])
@pytest.mark.parametrize(("keys", "values"), [(64, 48), (1, 1), (37, 100)])
def test_every_form_forward_and_back(form, keys, values):
    given = {name: t.requires_grad_() for name, t in drawn(form, keys, values).items()}
    wide = {name: t.detach().double().requires_grad_() for name, t in given.items()}
    got = fused.passed(**given)
    torch.set_default_dtype(torch.float64)
    try:
        expected = by_hand(**wide)
    finally:
        torch.set_default_dtype(torch.float32)
    with torch.no_grad():
        for alone, kept in zip(fused.passed(**given), got, strict=True):
            assert torch.equal(alone, kept)
    weights = [torch.randn_like(t) for t in got]
    grads = torch.autograd.grad(got, list(given.values()), weights)
    held = torch.autograd.grad(expected, list(wide.values()), [t.double() for t in weights])
    for name, a, b in zip(("o", "S", *given), (*got, *grads), (*expected, *held), strict=True):
        if name == "scores" and form != "adds":
            # On the diagonal of L and above it the kernel takes everything for zero, and says nothing of gradients.
            a, b = (t * MASK for t in (a, b))
        assert_close(name, a, b.float())


@pytest.mark.parametrize("shape", [(3, 32, 64, 128), (2, 1, 1, 1), (4, 13, 70, 45), (1, 64, 5, 33), (2, 3, 0, 4)])
def test_products_of_any_size_and_order(shape):
    number, m, k, n = shape
    for left in (torch.randn(number, m, k), torch.randn(number, k, m).mT):
        for right in (torch.randn(number, k, n), torch.randn(number, n, k).mT):
            assert_close("product", batched.batched(left, right), (left.double() @ right.double()).float())


def test_the_engine_takes_them_and_what_they_cannot_do_goes_by_pytorch(monkeypatch):
    seen = []
    monkeypatch.setattr(
        fused, "run_chunks", lambda form, *a, **k: (seen.append(form), chunks.run_chunks(form, *a, **k))
    )
    for name, form in (("mlstm", "adds"), ("gated-delta-net", "corrects"), ("rwkv7", "takes")):
        made = recurra.layer(name, 16, heads=2)
        for dtype, time, forms in ((torch.float32, 50, [form, form]), (torch.float64, 50, []), (torch.float32, 9, [])):
            seen.clear()
            made.to(dtype)(torch.randn(1, time, 16, dtype=dtype), engine="chunkwise")[0].sum().backward()
            assert seen == forms, (name, dtype, time)


def test_many_gradients_at_once_are_those_one_by_one():
    made = recurra.layer("rwkv7", 16, heads=2)
    x = torch.randn(1, 40, 16, requires_grad=True)
    y, _ = made(x, engine="chunkwise")
    weights = torch.randn(3, *y.shape)
    given = [x, *made.parameters()]
    many = torch.autograd.grad(y, given, weights, is_grads_batched=True, retain_graph=True)
    each = [torch.autograd.grad(y, given, weight, retain_graph=True) for weight in weights]
    for a, b in zip(many, zip(*each, strict=True), strict=True):
        assert_close("gradient", a, torch.stack(b))
