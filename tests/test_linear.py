"""`recurra.Linear`: the same numbers as `torch.nn.Linear` by whatever way, and which way is taken."""

import copy
import json
import pickle
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import recurra
from recurra.compiler.targets import host
from recurra.engines import calibrate, products
from recurra.engines.rates import Rates, Speeds
from recurra.testing.tolerances import assert_close
from recurra.training.config import TrainConfig
from recurra.training.trainer import train

ONEDNN = Speeds(torch=1.0, onednn=0.0)
"""So that oneDNN is taken wherever it may be."""


@pytest.fixture
def taken(monkeypatch):
    """Sizes of the products that oneDNN or our own kernel has computed."""
    seen = []

    def counting(own):
        def counted(*given):
            seen.append(tuple(given[0].shape))
            return own(*given)

        return counted

    for name in ("by_onednn", "compiled_outer"):
        monkeypatch.setattr(products, name, counting(getattr(products, name)))
    with products.decided_by(ONEDNN):
        yield seen


def both(inputs, outputs, bias=True):
    """A map of ours and PyTorch's with the same weights."""
    seed = torch.randint(2**31, ()).item()
    made = []
    for kind in (recurra.Linear, nn.Linear):
        torch.manual_seed(seed)
        made.append(kind(inputs, outputs, bias=bias))
    return made


def with_gradients(module, x, grad):
    x = x.detach().requires_grad_()
    y = module(x)
    return y, *torch.autograd.grad(y, [x, *module.parameters()], grad)


@pytest.mark.parametrize("shape", [(16,), (37,), (3, 21), (2, 1, 64), (1, 5000), (0,), (3, 0), (1,), (1, 1), (15,), ()])
@pytest.mark.parametrize(("inputs", "outputs"), [(16, 16), (33, 129), (300, 17), (16, 8), (1, 1)])
@pytest.mark.parametrize("bias", [True, False])
def test_numbers_are_those_of_torch(taken, shape, inputs, outputs, bias):
    ours, theirs = both(inputs, outputs, bias)
    x, grad = torch.randn(*shape, inputs), torch.randn(*shape, outputs)
    exact = with_gradients(copy.deepcopy(theirs).double(), x.double(), grad.double())
    for what, got, expected in zip(("y", "x", "weight", "bias"), with_gradients(ours, x, grad), exact, strict=False):
        assert_close(what, got, expected, torch.float32)
    rows = x[..., 0].numel() if len(shape) else 1
    assert len(taken) >= (3 if min(rows, inputs, outputs) >= 16 and products.has_onednn() else 0)
    with torch.no_grad():
        assert_close("without gradients", ours(x), exact[0], torch.float32)


@pytest.mark.filterwarnings("ignore:.*jit")
def test_it_is_a_linear_map_of_torch():
    ours, theirs = both(24, 40)
    assert isinstance(ours, nn.Linear)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    assert all(map(torch.equal, ours.parameters(), theirs.parameters()))
    x = torch.randn(64, 24)
    for copied in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours)), torch.jit.script(ours)):
        assert torch.equal(copied(x), ours(x))
    ours.register_forward_hook(lambda module, given, y: 2 * y)
    assert torch.equal(ours(input=x), 2 * theirs(x))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        ours(torch.randn(64, 25))


@pytest.mark.usefixtures("taken")
def test_it_can_be_differentiated_twice_and_in_batches():
    ours, theirs = both(32, 48)
    x, results = torch.randn(64, 32, requires_grad=True), []
    for module in (ours, theirs):
        (first,) = torch.autograd.grad(module(x).square().sum(), x, create_graph=True)
        results.append(torch.autograd.grad(first.square().sum(), [x, module.weight]))
    many = torch.randn(3, 64, 48)
    for module, found in zip((ours, theirs), results, strict=True):
        found += torch.autograd.grad(module(x), [x, *module.parameters()], many, is_grads_batched=True)
    for got, expected in zip(*results, strict=True):
        assert_close("gradient", got, expected)


class Seen(torch.Tensor):
    """A subclass that PyTorch asks before every operation."""


def compiled(module, x):
    return torch.compile(module, backend="eager")(x)


CONTEXTS = {
    "turned off": lambda f, x: f(x),
    "float64": lambda f, x: f.double()(x.double()),
    "bfloat16": lambda f, x: f.bfloat16()(x.bfloat16()),
    "not contiguous": lambda f, x: f(x.t().contiguous().t()),
    "autocast": lambda f, x: f(x),
    "subclass": lambda f, x: f(x.as_subclass(Seen)).as_subclass(torch.Tensor),
    "vmap": lambda f, x: torch.func.vmap(f)(x[None])[0],
    "grad": lambda f, x: torch.func.grad(lambda x: f(x).sum())(x),
    "jvp": lambda f, x: torch.func.jvp(f, (x,), (x,))[1],
    "compile": compiled,
    "export": lambda f, x: torch.export.export(f, (x,)).module()(x),
    "trace": lambda f, x: torch.jit.trace(f, x, check_trace=False)(x),
    "fx": lambda f, x: torch.fx.symbolic_trace(nn.Sequential(f))(x),
}


@pytest.mark.parametrize("name", CONTEXTS)
@pytest.mark.filterwarnings("ignore")  # PyTorch's own, of what it will do away with
def test_where_the_plain_way_is_taken(taken, name):
    """Each has what it needs to see, and numbers that are PyTorch's to the bit."""
    x, run = torch.randn(64, 32), CONTEXTS[name]
    around = {
        "turned off": torch.backends.mkldnn.flags(enabled=False),
        "autocast": torch.autocast("cpu", dtype=torch.bfloat16),
    }.get(name, nullcontext())
    with around:
        got, expected = (run(module, x) for module in both(32, 48))
    assert got.dtype == expected.dtype
    assert torch.equal(got, expected)
    assert not taken


@pytest.mark.parametrize("mode", [FakeTensorMode, lambda: torch.device("meta")], ids=["fake", "meta"])
def test_shapes_without_numbers(taken, mode):
    with mode():
        assert recurra.Linear(32, 48)(torch.randn(64, 32)).shape == (64, 48)
    assert not taken


@pytest.mark.parametrize("rows", [16, 31, 3000])
@pytest.mark.parametrize(("m", "n"), [(16, 16), (48, 17), (129, 300)])
def test_sums_of_outer_products(taken, rows, m, n):
    left, right = torch.randn(rows, 3, m), torch.randn(rows, 3, n)
    found = products.sums_of_outer(left, right)
    assert_close("sum", found, torch.einsum("rlm,rln->lmn", left.double(), right.double()), torch.float32)
    assert len(taken) >= 3


@pytest.mark.parametrize("vector", [64, 32, 16])
@pytest.mark.parametrize(("rows", "m", "n"), [(1, 1, 1), (17, 5, 3), (129, 257, 49), (700, 600, 100)])
def test_the_kernel_at_every_width_of_vectors(monkeypatch, vector, rows, m, n):
    """Rows that lie apart as well; what lies between them, and behind the last, is not read."""
    monkeypatch.setattr(host, "vector_bytes", lambda: vector)
    left, right = torch.full((rows, m + 3), float("nan")), torch.randn(rows, n)
    left[:, :m] = torch.randn(rows, m)
    found = products.compiled_outer(left[:, :m], right)
    assert_close("sum", found, left[:, :m].double().t() @ right.double(), torch.float32)


@pytest.mark.parametrize("heads", [1, 2])
def test_recurrent_weights_get_their_gradients_from_it(taken, heads):
    layer, x = recurra.layer("lstm", 32, heads=heads), torch.randn(4, 30, 32)
    expected = torch.autograd.grad(layer(x, engine="loop")[0].sum(), list(layer.parameters()))
    taken.clear()
    found = torch.autograd.grad(layer(x, engine="compiled")[0].sum(), list(layer.parameters()))
    for (name, _), got, right in zip(layer.named_parameters(), found, expected, strict=True):
        assert_close(name, got, right)
    hidden = 32 // heads
    assert taken.count((120, 4 * hidden)) >= heads, taken


def test_two_runs_are_equal_to_the_bit(taken):
    layer, x = recurra.layer("mamba", 32), torch.randn(2, 100, 32)
    first, second = (torch.autograd.grad(layer(x)[0].square().sum(), list(layer.parameters())) for _ in range(2))
    assert all(map(torch.equal, first, second))
    assert taken


def test_a_run_keeps_its_ways_over_a_break(tmp_path, taken):
    """Whatever is measured between them: the folder says how products were computed."""
    config = TrainConfig(pattern="lstm", width=32, mlp=16, batch=4, window=16, steps=6, checkpoint_every=2)
    text = bytes(torch.randint(32, 127, (3000,)).tolist())
    train(config, text, tmp_path / "whole")
    assert taken

    def stop(metrics):
        if metrics["step"] == 3:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train(config, text, tmp_path / "cut", progress=stop)
    taken.clear()
    with products.decided_by(replace(ONEDNN, torch=0.0)):
        train(config, text, tmp_path / "cut", resume=True)
    assert taken
    whole, cut = (tmp_path / name for name in ("whole", "cut"))
    assert (whole / "model.safetensors").read_bytes() == (cut / "model.safetensors").read_bytes()
    assert json.loads((cut / "config.json").read_text())["products"] == {"torch": 1.0, "onednn": 0.0}


@pytest.mark.filterwarnings("ignore:TF32")  # PyTorch's own, of flags that are left as they are
def test_the_table_of_ways(monkeypatch):
    """What `recurra calibrate` prints; without oneDNN, PyTorch's own alone, and a machine that is no faster by it."""
    monkeypatch.setattr(calibrate, "SHAPES", ((64, 32, 48),))
    (row,) = calibrate.products_table()
    assert [row.pop(name) for name in ("rows", "inputs", "outputs")] == [64, 32, 48]
    assert all(value > 0 for name, value in row.items() if products.has_onednn() or "oneDNN" not in name)
    with torch.backends.mkldnn.flags(enabled=False):
        (without,) = calibrate.products_table()
    assert {name for name, value in without.items() if value is None} == {n for n in row if "oneDNN" in n}


@pytest.mark.parametrize(
    ("vendor", "vector", "held_back"),
    [("AuthenticAMD", 64, True), ("GenuineIntel", 64, False), ("AuthenticAMD", 32, False)],
)
def test_the_default_follows_from_what_the_processor_says(monkeypatch, tmp_path, vendor, vector, held_back):
    file = tmp_path / "cpuinfo"
    file.write_text(f"processor\t: 0\nvendor_id\t: {vendor}\n")
    monkeypatch.setattr(host, "FACTS", file)
    monkeypatch.setattr(host, "vector_bytes", lambda: vector)
    assert host.is_held_back() is held_back
    usual = Rates()
    assert (usual.product_onednn < usual.product) is (held_back and torch.backends.mkl.is_available())
