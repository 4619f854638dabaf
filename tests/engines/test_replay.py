"""What cannot be compiled is replayed: the reference loop's numbers and gradients, by operations on whole batches."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import recurra
from recurra import EngineRefused, Lane, Recurrence, constant, shared
from recurra.compiler.frontend.prepared import Operation, Weight
from recurra.engines import choose
from recurra.engines.replay.recording import replay_of
from recurra.engines.replay.write import narrowed
from recurra.testing.cases import compare, draw
from recurra.testing.laws import LAWS
from recurra.testing.tolerances import assert_close

pytestmark = [
    pytest.mark.filterwarnings("ignore:replaying the step"),
    pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"),  # PyTorch's own, in forward mode
]
SCALE = torch.tensor([1.5, 0.5, -1.0, 2.0])


class Whole(Recurrence):
    lane = Lane.LAYER

    def __init__(self, width=4):
        super().__init__(width)
        self.linear = nn.Linear(width, width)
        self.more = [nn.Parameter(torch.randn(width)), {"b": nn.Parameter(torch.randn(width))}]
        self.register_buffer("slope", torch.rand(width) + 0.5)
        self.cell = nn.LSTMCell(width, width)

    def start(self):
        return {"h": torch.full((self.width,), 0.1), "c": torch.eye(self.width)}

    def inputs(self, x):
        return {"x": x}


class Hard(torch.autograd.Function):
    """A threshold with the slope of a sigmoid, and the sigmoid."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x, slope):
        return (x > 0).to(x.dtype), torch.sigmoid(slope * x)

    @staticmethod
    def setup_context(ctx, inputs, output):  # noqa: ARG004
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, grad, other):
        x, slope = ctx.saved_tensors
        s = torch.sigmoid(slope * x)
        return (grad + 2 * other) * slope * s * (1 - s), None


def spectral(self, h, c, x):
    h = torch.tanh(self.linear(h) + x)
    c = torch.linalg.qr(0.5 * c + torch.outer(h, x))[1] + torch.eye(4, dtype=x.dtype)
    values = torch.linalg.svdvals(c) + torch.linalg.eigvalsh(c @ c.mT)
    return (h, c), torch.linalg.svdvals(self.linear.weight) * torch.linalg.pinv(c) @ h + values


def special(self, h, c, x):
    h = torch.tanh(self.linear.weight @ h + x) - torch.quantile(x, 0.3)
    return (h, 0.5 * c), torch.lgamma(1.5 + h) * torch.special.i0(x) + c.sum(0)


def straight_through(self, h, c, x):
    soft = torch.sigmoid(h + x)
    z = soft + (torch.lgamma(soft + 1).round() - soft).detach()
    with torch.no_grad():
        size = (self.linear(h) ** 2).mean()
    return (h + z * (torch.tanh(x) - h), c * size), z * size


def own_gradient(self, h, c, x):
    gate, soft = Hard.apply(self.linear(h) + torch.lgamma(2 + torch.tanh(x)), self.slope)
    return (torch.tanh(h * gate + x * soft), c), gate * h


def in_place(self, h, c, x):
    x *= 0.5
    h.clamp_(-1, 1)
    h[h > 0.5] = 0.5
    new = torch.zeros(4, dtype=h.dtype)
    for i in range(4):
        new[i] = torch.lgamma(1.5 + torch.tanh(h[i - 1] + x[i]))
    c[1:3] += torch.outer(new[:2], x)
    return (new + h, torch.tanh(c)), c[1] * self.slope


def anywhere(self, h, c, x):
    a, other = self.more
    h = torch.tanh(torch.special.i0(a * h) + x * SCALE.to(x.dtype) * torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=x.dtype))
    return (h, c), h * other["b"] + self.slope.data + x.data


def cells(self, h, c, x):
    h, c = self.cell(torch.lgamma(2 + torch.tanh(x)), (h, c[0]))
    return (h, c.expand(4, 4)), torch.select_scatter(torch.outer(h, x), x, 0, 1).sum(0)


STEPS = [spectral, special, straight_through, own_gradient, in_place, anywhere, cells]


def with_step(step):
    return type(step.__name__, (Whole,), {"step": step})


CASES = [(step, torch.float64) for step in STEPS]
# In short types a rounding decides which way a threshold goes.
CASES += [(step, torch.bfloat16) for step in STEPS if step not in (straight_through, own_gradient)]


@pytest.mark.parametrize(("step", "dtype"), CASES)
def test_steps_that_cannot_be_compiled(step, dtype):
    layer = with_step(step)()
    for law in ("same_as_reference", "any_shape"):
        LAWS[law](lambda: layer, "replay", dtype)
    layer, x = layer.to(dtype), torch.randn(2, 3, 4, dtype=dtype)
    assert layer.refusals(x)["compiled"] or step is cells
    assert choose.choose(layer.problem(x)) == ("compiled" if layer.refusals(x)["compiled"] is None else "replay")


@pytest.mark.parametrize("law", [law for law in LAWS if law not in ("gradients_are_derivatives", "is_traceable")])
def test_laws(law):
    make = with_step(special)
    layer = make().double()
    LAWS[law](make if LAWS[law].fresh else lambda: layer, "replay", torch.float64)


class Lanes(Recurrence):
    """Inputs of every kind, complex numbers, counters and flags."""

    def __init__(self, lane, lanes):
        super().__init__(4 * lanes)
        self.lane, self.lanes = lane, lanes
        self.weight = nn.Parameter(torch.randn(lanes, 4, 4) / 2)
        self.mix = nn.Parameter(torch.randn(4, 4) / 2)

    def start(self):
        return {"z": torch.full((self.lanes, 4), 0.1 + 0.2j), "n": torch.arange(self.lanes)}

    def inputs(self, x):
        own = x.unflatten(-1, (self.lanes, 4))
        flag = own.sum(-1) > 0
        return {"x": own, "all": shared(x[..., :4]), "w": constant(self.weight), "flag": flag}

    def step(self, z, n, x, all, w, flag):
        z = torch.tanh(torch.complex(w @ z.real + x, self.mix @ z.imag * all)) + 0.1j * n
        n = torch.where(flag, n + 1, n % 3)
        return (z, n), torch.lgamma(2 + torch.tanh(z.real)) + w.sum() * n


@pytest.mark.parametrize(("lane", "lanes"), [(Lane.CHANNEL, 5), (Lane.HEAD, 2), (Lane.HEAD, 1)])
def test_inputs_of_every_kind(lane, lanes):
    layer = Lanes(lane, lanes)
    for law in ("same_as_reference", "any_shape", "packed_and_padded"):
        LAWS[law](lambda: layer, "replay", torch.float64)


class Elman(Whole):
    def start(self):
        return {"h": torch.zeros(self.width)}

    def step(self, h, x):
        h = torch.tanh(self.linear(h) + x)
        return h, h


class Delicate(Elman):
    """Has a factor only where its state is small, which examples are not."""

    def start(self):
        return {"h": torch.full((self.width,), 0.01)}

    def step(self, h, x):
        L = torch.linalg.cholesky(0.2 * torch.eye(4, dtype=h.dtype) - torch.outer(h, h))
        h = 0.1 * torch.tanh(x) + 0.01 * (L @ h)
        return h, torch.lgamma(h + 2)


def test_a_step_that_raises_on_examples_is_recorded_on_its_own_numbers():
    layer = Delicate().double()
    with recurra.observe() as seen:
        layer(torch.randn(2, 3, 4).double())
    assert seen == ["replay"]
    LAWS["same_as_reference"](lambda: layer, "replay", torch.float64)
    layer, x = Delicate().double(), torch.randn(2, 3, 4).double()
    state = recurra.State({"h": torch.ones(2, 4).double()})
    with pytest.raises(torch.linalg.LinAlgError):
        layer(x, state)
    assert layer.refusals(x)["replay"] is None


def test_what_is_left_of_a_step():
    layer = Elman()
    assert replay_of(layer.problem(torch.randn(3, 2, 4))).operations == 3  # a product with a sum, x, tanh
    with_turned = type("Turned", (Elman,), {"step": lambda self, h, x: (torch.tanh(self.linear.weight @ h + x),) * 2})
    assert replay_of(with_turned().problem(torch.randn(3, 2, 4))).operations == 2


def test_nothing_is_remembered_but_the_operations():
    layer, case = Elman(), None
    for kept in (layer, layer, Elman()):
        with torch.no_grad():
            kept.linear.weight.normal_()
            kept.linear.bias = nn.Parameter(torch.randn(4))
        case = draw(lambda kept=kept: kept, torch.float64, state=True, resets=True)
        compare(case, "replay")
    assert replay_of(case.layer.problem(case.x)) is replay_of(layer.problem(case.x))


def test_derivatives_of_every_kind():
    layer, x = with_step(special)().double(), torch.randn(2, 3, 4).double()

    def run(x):
        return layer(x, engine="replay")[0]

    assert torch.autograd.gradgradcheck(run, x.clone().requires_grad_())
    tangent = torch.autograd.functional.jvp(run, x, torch.ones_like(x))[1]
    assert_close("jvp", torch.func.jvp(run, (x,), (torch.ones_like(x),))[1], tangent)
    mapped = torch.func.vmap(lambda x: run(x[None])[0])(x)
    assert_close("vmap", mapped, run(x))


REFUSED = {
    "weight": (lambda self, h, c, x: ((h * self.slope[0].item(), c), x), "by the value of a tensor"),
    "written": (lambda self, h, c, x: ((h + self.slope.mul_(1.0), c), x), "make it a state"),
    "noise": (lambda self, h, c, x: ((h + torch.rand(4), c), x), "draw them in inputs"),
    "zoneout": (lambda self, h, c, x: ((F.dropout(h), c), x), "draw them in inputs"),
    "if": (lambda self, h, c, x: ((h, c), x if h.sum() > 0 else h), "use torch.where"),
    "numpy": (lambda self, h, c, x: ((h + torch.from_numpy(x.detach().numpy()), c), x), "PyTorch"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused_with_the_line(what):
    step, advice = REFUSED[what]
    layer = type("Cell", (Whole,), {"step": step})()
    with pytest.raises(EngineRefused, match=advice) as refused:
        layer(torch.randn(2, 3, 4), engine="replay")
    assert what == "written" or f"{__file__}:" in str(refused.value)


def test_auto_says_once_that_it_replays():
    layer, x = with_step(special)(), torch.randn(2, 3, 4)
    choose._warned.clear()
    with pytest.warns(UserWarning, match="replaying the step .*lgamma"), recurra.observe() as seen:
        y, _ = layer(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer(x)
    assert seen == ["replay"]
    said = layer.explain(x)
    assert said["engine"] == "replay"
    assert "milliseconds" in said["expected"]["replay"]
    assert_close("y", y, layer(x, engine="loop")[0])


LIMITS = [
    (),
    (0,),
    (0, 2),
    (0, 2, 5),
    (0, -3, 2**63 - 1),
    (0, None, 4),
    (0, 4, 2),
    (0, 0, 9, 1),
    (0, 1, 9, 2),
    (-1, -4),
]


@pytest.mark.parametrize("limits", LIMITS)
def test_slices_are_called_by_another_name(limits):
    x, of = torch.arange(10.0), torch.ops.aten.slice.Tensor
    written = narrowed(Operation(of, (Weight("x"), *limits), {}, True), {Weight("x"): x})
    assert torch.equal(written.function(x, *written.args[1:]), of(x, *limits))
