"""Programs that torch.export makes of layers: they carry which kernels they run, to other processes as well."""

import io
import subprocess
import sys

import pytest
import torch
from torch import nn

import recurra
from recurra.compiler.frontend.graph import topological
from recurra.compiler.planning import written
from recurra.compiler.planning.plan import planned
from recurra.engines import compiled
from recurra.engines.kernels import call
from recurra.errors import RecurraError
from recurra.testing.tolerances import assert_close

LAYERS = ["min-gru", "lstm", "mamba", "lru", "rwkv4", "gated-delta-net", "titans"]
"""Channels and heads, products, complex states, windows, several kernels, gradients within a step."""


class Called(nn.Module):
    """A layer with what torch.export can hand over: tensors, in and out."""

    def __init__(self, layer, **options):
        super().__init__()
        self.layer, self.options = layer, options

    def forward(self, x):
        y, state = self.layer(x, **self.options)
        return y, *state.values()


def saved(module, x):
    buffer = io.BytesIO()
    torch.export.save(torch.export.export(module, (x,), strict=False), buffer)
    return buffer.getvalue()


def read(program):
    """A program in a process that has made none of its kernels, nearly."""
    call._calls.clear()
    call._read.cache_clear()
    return torch.export.load(io.BytesIO(program)).module()


def hold(got, expected):
    for i, (a, b) in enumerate(zip(got, expected, strict=True)):
        assert_close(f"value {i}", a, b)


ELSEWHERE = """
import sys, torch, recurra
folder, first = sys.argv[1:]
with torch.no_grad():
    if first:
        recurra.layer(first, 8)(torch.randn(2, 6, 8))
    for name in torch.load(folder + "/names.pt"):
        x = torch.load(folder + "/x.pt")
        torch.save(torch.export.load(f"{folder}/{name}.pt2").module()(x), f"{folder}/{name}.out")
"""


@pytest.mark.parametrize("first", ["", "rnn"], ids=["alone", "beside another layer"])
def test_a_program_is_the_same_in_another_process(first, tmp_path):
    x, expected = torch.randn(2, 6, 8), {}
    with torch.no_grad():
        for name in LAYERS:
            module = Called(recurra.layer(name, 8))
            (tmp_path / f"{name}.pt2").write_bytes(saved(module, x))
            expected[name] = module(x)
    torch.save(LAYERS, tmp_path / "names.pt")
    torch.save(x, tmp_path / "x.pt")
    subprocess.run([sys.executable, "-c", ELSEWHERE, tmp_path, first], check=True)
    for name in LAYERS:
        hold(torch.load(tmp_path / f"{name}.out"), expected[name])


@pytest.mark.parametrize(
    ("name", "dtype"),
    [*((name, torch.float64) for name in LAYERS), ("mamba", torch.float32), ("mamba", torch.bfloat16)],
)
def test_values_and_gradients(name, dtype):
    options = {"resets": torch.rand(2, 6) < 0.3, "lengths": torch.tensor([6, 4])}
    module = Called(recurra.layer(name, 8).to(dtype), **options)
    x = torch.randn(2, 6, 8, dtype=dtype, requires_grad=True)
    program = read(saved(module, x))
    # The numbers of another call than the one that was recorded, in another order of memory.
    x = torch.randn(8, 6, 2, dtype=dtype).permute(2, 1, 0).requires_grad_()
    got, expected = program(x), module(x)
    hold(got, expected)
    slopes = torch.autograd.grad(got[0].float().square().sum(), [x, *program.parameters()], allow_unused=True)
    wanted = [module.get_parameter(own) for own, _ in program.named_parameters()]
    wanted = torch.autograd.grad(expected[0].float().square().sum(), [x, *wanted], allow_unused=True)
    for a, b in zip(slopes, wanted, strict=True):
        assert_close("gradient", torch.zeros(()) if a is None else a, torch.zeros(()) if b is None else b, dtype)


@pytest.mark.parametrize("name", ["min-gru", "lstm", "mamba"])
@pytest.mark.parametrize("shape", [(5, 6), (3, 9)], ids=["batch", "time"])
def test_a_size_may_be_left_open(name, shape):
    module, x = Called(recurra.layer(name, 8)), torch.randn(*shape, 8)
    with torch.no_grad():
        open_axis = {shape.index(max(set(shape) - {3, 6})): torch.export.Dim("n", min=2, max=64)}
        program = torch.export.export(module, (torch.randn(3, 6, 8),), dynamic_shapes=(open_axis,), strict=False)
        hold(program.module()(x), module(x))


class Twice(torch.autograd.Function):
    """With a gradient of its own."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):  # noqa: ARG004
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, grad):
        return grad * torch.tanh(ctx.saved_tensors[0])


class Marked(recurra.Recurrence):
    """A step with gradients that stop, are its own, and have a corner."""

    lane = recurra.Lane.CHANNEL

    def start(self):
        return {"h": torch.zeros(self.width)}

    def inputs(self, x):
        return {"x": x}

    def step(self, h, x):
        h = torch.where(x > 0, 0.5 * h + Twice.apply(x), h.detach() - x)
        return h, nn.functional.hardtanh(h)


def test_a_text_gives_the_plan_that_it_was_written_from():
    for layer in (Marked(4), *(recurra.layer(name, 8) for name in LAYERS)):
        plan = compiled.plan_of(layer.problem(torch.randn(2, 3, layer.width)))
        ops = {node.op for node in topological(plan.origin.outputs.values())}
        assert not isinstance(layer, Marked) or {"stop", "custom", "where"} <= ops
        origin, how = written.read(written.write(plan.origin, {"cut": True}))
        again = planned(origin)
        assert again.listing == plan.listing
        assert again.outers == plan.outers
        assert again.leaves == plan.leaves
        assert how == {"cut": True}


def damaged():
    plan = compiled.plan_of(recurra.layer("min-gru", 8).problem(torch.randn(2, 3, 8)))
    text = written.write(plan.origin, {})
    yield ""
    yield "what is this"
    yield text[:-9]
    yield text[:40] + text[41:]


@pytest.mark.parametrize("text", list(damaged()))
def test_a_text_that_is_damaged(text):
    with pytest.raises(RecurraError, match="cannot read which kernel it is to run") as caught:
        torch.ops.recurra.rollout([torch.randn(2, 8)], None, None, 3, text)
    assert len(str(caught.value).splitlines()) == 1


def test_tensors_that_no_program_was_made_for():
    layer, x = recurra.layer("min-gru", 8), torch.randn(2, 6, 8)
    with torch.no_grad():
        graph = torch.export.export(Called(layer), (x,), strict=False).graph
    node = next(node for node in graph.nodes if "rollout" in str(node.target))
    text = node.args[-1]
    names = call.called(text).names
    tensors = [torch.randn(2, 8) if name.startswith("state.") else torch.randn(2, 6, 8) for name in names]
    torch.ops.recurra.rollout(tensors, None, None, 6, text)
    for wrong in (tensors[0][:, :5], tensors[0].double(), tensors[0][:1]):
        with pytest.raises(RecurraError, match=r"recurra::rollout was recorded with .* and is given"):
            torch.ops.recurra.rollout([wrong, *tensors[1:]], None, None, 6, text)
